use super::*;

fn id(n: i64) -> ServerId {
    ServerId(n)
}

fn majority(voters: i64, observers: i64) -> Members {
    let line = |n: i64| {
        let role = if n <= voters { "participant" } else { "observer" };
        format!("server.{n}=h{n}:2888:3888:{role}\n")
    };
    Members::parse(&(1..=voters + observers).map(line).collect::<String>()).unwrap()
}

const HIERARCHY: &str = "server.1=a:1:2:participant\nserver.2=b:1:2:participant\nserver.3=c:1:2:participant\n\
                         server.4=d:1:2:participant\nserver.5=e:1:2:participant\nserver.9=o:1:2:observer\n\
                         group.1=1:2:3\ngroup.2=4\ngroup.3=5\n\
                         weight.1=1\nweight.2=1\nweight.3=3\nweight.4=0\nweight.5=1\nversion=100000000";

#[test]
fn the_text_is_zookeepers() {
    let given = "# comment\n\nversion = 10000000A\nserver.2= zoo2:2888:3888 ;2181\nserver.10=b:3:4|[::1]:1:2|a:5:6:Observer\n\
                 server.1=10.0.0.1:2888:3888:participant;[::]:2181;2281\nserver.0=z:1:2;;[fe80::1]:2281";
    let members = Members::parse(given).unwrap();
    let text = "server.0=z:1:2:participant;;[fe80::1]:2281\n\
                server.1=10.0.0.1:2888:3888:participant;[::]:2181;0.0.0.0:2281\n\
                server.2=zoo2:2888:3888:participant;0.0.0.0:2181\n\
                server.10=[::1]:1:2|a:5:6|b:3:4:observer\n\
                version=10000000a";
    assert_eq!(members.text(), text);
    assert_eq!(Members::parse(text), Ok(members.clone()));
    assert_eq!(members.version, 0x1_0000_000a);
    assert_eq!(members.voters(), [id(0), id(1), id(2)]);
    assert!(members.get(id(10)).unwrap().observer && !members.is_voter(id(10)) && !members.can_lead(id(10)));
    assert_eq!(members.get(id(10)).unwrap().peers[0].host, "::1");
    assert_eq!(members.iter().len(), 4);
    assert!(members.with_version(7).text().ends_with("\nversion=7"));
}

#[test]
fn a_hierarchy_keeps_its_groups_and_weights() {
    let members = Members::parse(HIERARCHY).unwrap();
    assert_eq!(members.text(), HIERARCHY);
    assert!(members.is_hierarchical() && !majority(3, 0).is_hierarchical());
    let again = Members::new(1 << 32, members.iter().cloned().collect(), members.groups());
    assert_eq!(again, Ok(members));
}

#[test]
fn a_majority_is_more_than_half_of_the_voters() {
    for (voters, need) in [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (7, 4)] {
        let members = majority(voters, 3);
        for n in 0..=voters {
            // Observers and strangers do not count.
            assert_eq!(members.quorum(|v| v.0 <= n || v.0 > voters), n >= need, "{n} of {voters}");
        }
    }
}

#[test]
fn a_hierarchical_quorum_is_most_weight_in_most_groups() {
    let members = Members::parse(HIERARCHY).unwrap();
    let quorum = |of: &[i64]| members.quorum(|v| of.contains(&v.0));
    // Group 2 has no weight, so both others are needed; server 3 has more than half of group 1.
    assert!(quorum(&[3, 5]));
    assert!(!quorum(&[1, 2, 5]) && !quorum(&[1, 2, 4, 5]) && !quorum(&[1, 2, 3, 4]) && !quorum(&[]));
    assert!(members.can_lead(id(1)) && !members.can_lead(id(4)) && !members.can_lead(id(9)));
}

/// Every two quorums meet, in ensembles of any shape.
#[test]
fn quorums_intersect() {
    let shapes =
        [majority(1, 0), majority(2, 1), majority(4, 0), majority(5, 0), Members::parse(HIERARCHY).unwrap()];
    for m in &shapes {
        let sets: Vec<u32> = (0..1 << 6).filter(|s| m.quorum(|v| v.0 < 6 && s >> v.0 & 1 == 1)).collect();
        assert!(!sets.is_empty());
        for a in &sets {
            assert!(sets.iter().all(|b| m.voters().iter().any(|v| (a & b) >> v.0 & 1 == 1)));
        }
    }
}

#[test]
fn what_cannot_be_an_ensemble_is_refused_with_the_reason() {
    let three = "server.1=a:1:2\nserver.2=b:1:2\nserver.3=c:1:2:observer\n";
    for (more, why) in [
        ("server.2=x:1:2", "server.2 is there twice"),
        ("server.-1=x:1:2", "neither negative"),
        ("server.9223372036854775807=x:1:2", "neither negative"),
        ("server.x=x:1:2", "expected server.N"),
        ("server.4=x:1:2:leader", "expected host:quorumPort"),
        ("server.4=x:1", "expected host:quorumPort"),
        ("server.4=x:1:0", "expected host:quorumPort"),
        ("server.4=x:1:65536", "expected host:quorumPort"),
        ("server.4=fe80::1:1:2", "expected host:quorumPort"),
        ("server.4=x:1:2;", "expected host:quorumPort"),
        ("server.4=x:1:2;1;2;3", "expected host:quorumPort"),
        ("server.4=x:1:2:observer|y:1:2:participant", "two roles"),
        ("server.4=x:1:2|x:1:2", "twice"),
        ("server.4=x y:1:2", "not the name of a host"),
        ("server.4=:1:2", "not the name of a host"),
        ("group.1=1", "server.2 is in no group"),
        ("group.1=1:2:3", "server.3 is an observer"),
        ("group.1=1:2:7", "there is no server.7"),
        ("group.1=1:2\ngroup.2=2", "in a group already"),
        ("group.1=1:", "joined by ':'"),
        ("weight.1=2", "is in no group"),
        ("group.1=1:2\nweight.8=2", "there is no server.8"),
        ("group.1=1:2\nweight.1=-1", "expected 0 to"),
        ("group.1=1:2\nweight.1=0\nweight.2=0", "nobody could lead"),
        ("version=", "hexadecimal"),
        ("version=+1", "hexadecimal"),
        ("version=ffffffffffffffff", "too large"),
        ("versions=1", "expected server.N"),
        ("clientPort=1", "expected server.N"),
        ("nonsense", "expected key=value"),
    ] {
        let error = Members::parse(&format!("{three}{more}")).expect_err(more);
        assert!(error.contains(why), "{more}: {error}");
    }
    assert!(Members::parse("").unwrap_err().contains("no servers"));
    assert!(Members::parse("server.1=a:1:2:observer").unwrap_err().contains("only observers"));
    assert!(Members::parse(&"server.1=a:1:2\n".repeat(MEMBERS_MAX + 1)).is_err());
    let many = vec!["a:1:2"; ADDRESSES_MAX + 1].join("|");
    assert!(Members::parse(&format!("server.1={many}")).unwrap_err().contains("17 addresses"));
}
