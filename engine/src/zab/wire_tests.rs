use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
    digits.chunks(2).map(|d| d[0] << 4 | d[1]).collect()
}

/// The bytes of a packet, and what they say; the data as hexadecimal digits.
type Sample = (&'static str, Kind, Zxid, Option<&'static str>, Vec<Id>);

/// From Apache ZooKeeper 3.8.0.
fn samples() -> Vec<Sample> {
    let ip = vec![Id::new("ip", "127.0.0.1")];
    vec![
        (
            "00000010 0000000000000000 00000014 0000000000000004 00010000 0000000100000000 ffffffff",
            Kind::ObserverInfo,
            Zxid::ZERO,
            Some("0000000000000004 00010000 0000000100000000"),
            vec![],
        ),
        (
            "00000011 0000000100000000 00000004 00010000 ffffffff",
            Kind::LeaderInfo,
            Zxid::new(1, 0),
            Some("00010000"),
            vec![],
        ),
        (
            "00000012 0000000000000000 00000004 00000000 ffffffff",
            Kind::AckEpoch,
            Zxid::ZERO,
            Some("00000000"),
            vec![],
        ),
        ("0000000d 0000000100000002 ffffffff ffffffff", Kind::Diff, Zxid::new(1, 2), None, vec![]),
        ("0000000c ffffffffffffffff ffffffff ffffffff", Kind::UpToDate, Zxid::MAX, None, vec![]),
        (
            "00000002 0000000100000003 00000030 020000104fda0001 00000000 0000000100000003 000001a1f976f8ec fffffff6 \
             00001770 00000002 000000015f179ed1 ffffffff",
            Kind::Proposal,
            Zxid::new(1, 3),
            Some(
                "020000104fda0001 00000000 0000000100000003 000001a1f976f8ec fffffff6 00001770 00000002 000000015f179ed1",
            ),
            vec![],
        ),
        ("00000005 0000000100000003 00000000 ffffffff", Kind::Ping, Zxid::new(1, 3), Some(""), vec![]),
        (
            "00000001 ffffffffffffffff 00000016 020000104fda0000 00000007 00000009 00000002 2f78 00000001 00000002 6970 \
             00000009 3132372e302e302e31",
            Kind::Request,
            Zxid::MAX,
            Some("020000104fda0000 00000007 00000009 00000002 2f78"),
            ip,
        ),
        (
            "00000006 ffffffffffffffff 0000000c 020000104fda0000 00001770 ffffffff",
            Kind::Revalidate,
            Zxid::MAX,
            Some("020000104fda0000 00001770"),
            vec![],
        ),
    ]
}

#[test]
fn packets_are_apaches_byte_for_byte() {
    for (bytes, kind, zxid, data, ids) in samples() {
        let (bytes, data) = (hex(bytes), data.map(hex));
        let want = Packet { kind, zxid, data: data.as_deref(), ids: ids.clone() };
        assert_eq!(parse(&bytes, 48), Ok(Some((want, bytes.len()))));
        let mut out = vec![];
        match &data {
            Some(data) => {
                let ids = (!ids.is_empty()).then_some(&ids[..]);
                put_packet_with(&mut out, kind, zxid, ids, |out| out.extend_from_slice(data));
            }
            None => put_packet(&mut out, kind, zxid, None),
        }
        assert_eq!(out, bytes, "{kind:?}");
    }
}

#[test]
fn a_part_of_a_packet_is_not_a_packet_and_one_behind_it_does_not_matter() {
    let all: Vec<Vec<u8>> = samples().iter().map(|s| hex(s.0)).collect();
    for (i, bytes) in all.iter().enumerate() {
        for n in 0..bytes.len() {
            assert_eq!(parse(&bytes[..n], 100), Ok(None), "{n} of {bytes:?}");
        }
        let two = [&bytes[..], &all[(i + 1) % all.len()]].concat();
        assert_eq!(parse(&two, 100).unwrap().unwrap().1, bytes.len());
    }
}

#[test]
fn lengths_are_judged_before_what_they_announce_is_there() {
    let wrong = |head: &str| parse(&hex(head), 100).expect_err("garbage").0;
    assert_eq!(wrong("00000014"), "packet of unknown kind 20");
    assert_eq!(wrong("00000000"), "packet of unknown kind 0");
    assert_eq!(wrong("00000002 0000000000000001 00000065"), "packet's data of 101 bytes");
    assert_eq!(wrong("00000002 0000000000000001 fffffffe"), "packet's data of -2 bytes");
    assert_eq!(wrong("00000002 0000000000000001 ffffffff 00001001"), "packet with 4097 identities");
    assert_eq!(wrong("00000002 0000000000000001 ffffffff 00000001 00010001"), "identity of 65537 bytes");
    assert!(parse(&hex("00000002 0000000000000001 00000064"), 100).unwrap().is_none());

    let mut many = vec![];
    let long = vec![Id::new("digest", &"x".repeat(ID_BYTES_MAX)); IDS_BYTES_MAX / ID_BYTES_MAX];
    put_packet_with(&mut many, Kind::Request, Zxid::MAX, Some(&long), |_| ());
    assert!(parse(&many, 100).is_err());
}

#[test]
fn strange_identities_are_read_as_java_reads_them() {
    let null = hex("00000003 0000000000000001 ffffffff 00000001 ffffffff 00000001 61");
    assert_eq!(parse(&null, 0).unwrap().unwrap().0.ids, [Id::new("", "a")]);
    let negative = hex("00000003 0000000000000001 ffffffff fffffff0");
    assert_eq!(parse(&negative, 0).unwrap().unwrap().0.ids, []);
}

#[test]
fn a_learner_may_say_less_of_itself() {
    let full = hex("0000000000000004 00010000 0000000100000000");
    let info = LearnerInfo { server: Some(ServerId(4)), protocol: PROTOCOL, config_version: 1 << 32 };
    let mut out = vec![];
    info.encode(&mut out);
    assert_eq!(out, full);
    assert_eq!(LearnerInfo::decode(Some(&full)), info);
    assert_eq!(LearnerInfo::decode(Some(&full[..12])), LearnerInfo { config_version: 0, ..info });
    assert_eq!(LearnerInfo::decode(Some(&full[..8])), LearnerInfo { config_version: 0, protocol: 1, ..info });
    let nothing = LearnerInfo { server: None, config_version: 0, protocol: 1 };
    assert_eq!(LearnerInfo::decode(None), nothing);
    assert_eq!(LearnerInfo::decode(Some(&full[..7])), nothing);
}

#[test]
fn notifications_of_every_age() {
    let head = "00000002 0000000000000002 0000000000000000 0000000000000001";
    let full = hex(&format!("{head} 0000000000000001 00000002 000000fa {}", "61".repeat(250)));
    let want = Notification {
        state: PeerState::Leading,
        leader: ServerId(2),
        zxid: Zxid::ZERO,
        round: 1,
        peer_epoch: 1,
        version: 2,
        config: Some("a".repeat(250)),
    };
    assert_eq!(Notification::decode(&full), Ok(want.clone()));
    let mut out = vec![];
    want.encode(&mut out);
    assert_eq!(out, full);

    let old = Notification { version: 0, config: None, ..want.clone() };
    assert_eq!(Notification::decode(&hex(&format!("{head} 0000000000000001 00000001"))), Ok(old.clone()));
    let oldest = hex("00000002 0000000000000002 0000000700000003 0000000000000001");
    assert_eq!(
        Notification::decode(&oldest),
        Ok(Notification { zxid: Zxid::new(7, 3), peer_epoch: 7, ..old })
    );
    for n in [0, 27, 29, 36, 41, 43, 44, 293] {
        assert_eq!(Notification::decode(&full[..n]), garbage(format!("notification of {n} bytes")));
    }
    let negative = hex(&format!("{head} 0000000000000001 00000002 ffffffff"));
    assert!(Notification::decode(&negative).is_err());
    assert!(Notification::decode(&[&[0, 0, 0, 4], &full[4..]].concat()).is_err());
}

#[test]
fn an_observers_vote_is_for_nobody() {
    let vote = Notification {
        state: PeerState::Looking,
        leader: ServerId(Notification::NOBODY),
        zxid: Zxid::from_wire(Notification::NOBODY),
        round: 3,
        peer_epoch: Notification::NOBODY,
        version: 2,
        config: Some(String::new()),
    };
    let mut out = vec![];
    vote.encode(&mut out);
    assert_eq!(out[4..12], i64::MIN.to_be_bytes());
    assert_eq!(Notification::decode(&out), Ok(vote));
}

#[test]
fn greetings_of_every_age() {
    let one = Hello { server: ServerId(3), address: "127.0.0.1:3888".into() };
    let bytes = hex("ffffffffffff0000 0000000000000003 0000000e 3132372e302e302e313a33383838");
    let mut out = vec![];
    put_hello(&mut out, &one);
    assert_eq!(out, bytes);
    for n in 0..bytes.len() {
        assert_eq!(parse_hello(&bytes[..n]), Ok(None));
    }
    let behind = [&bytes[..], b"next"].concat();
    assert_eq!(parse_hello(&behind), Ok(Some((one, bytes.len()))));

    let two = Hello { server: Hello::OBSERVER, address: "a:1|b:2".into() };
    let mut out = vec![];
    put_hello(&mut out, &two);
    assert_eq!(out[..16], hex("ffffffffffff0001 7fffffffffffffff"));
    assert_eq!(parse_hello(&out), Ok(Some((two, out.len()))));

    let bare = Hello { server: ServerId(5), address: String::new() };
    assert_eq!(parse_hello(&hex("0000000000000005 0000")), Ok(Some((bare, 8))));
    let wrong = |bytes: &str| parse_hello(&hex(bytes)).expect_err("garbage").0;
    assert!(wrong("5f2435013501edcc").contains("SASL"));
    assert!(wrong("fffffffffffeffff").contains("version"));
    assert!(wrong("ffffffffffff0000 0000000000000003 00000000").contains("0 bytes"));
    assert!(wrong("ffffffffffff0000 0000000000000003 00000801").contains("2049 bytes"));
    assert!(wrong("ffffffffffff0000 0000000000000003 00000002 ffff").contains("no text"));
}
