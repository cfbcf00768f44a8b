//! `loadgen timeline` against a fake server: sessions that lose their connection, and what is said about them.

mod support;

use serde_json::Value;
use std::process::{Command, Output};
use std::sync::atomic::Ordering;
use support::{Fake, Manners};

/// As [`once`]; a busy machine may send too late for a result that is valid, so it may try again.
fn timeline(manners: &Manners) -> (Output, Value, Fake) {
    let valid = |(_, json, _): &(Output, Value, Fake)| json["summary"]["valid"] == true;
    (0..TRIES).map(|_| once(manners.clone())).find(valid).expect("a valid result")
}

/// Tries to get a valid result.
const TRIES: usize = 20;

/// Two sessions for half a second; the server is listed twice, so that there is one to go on to.
fn once(manners: Manners) -> (Output, Value, Fake) {
    let fake = Fake::start(manners);
    let dir = tempfile::tempdir().unwrap();
    let (json, html) = (dir.path().join("out.json"), dir.path().join("out.html"));
    let out = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .arg("timeline")
        .args(["--hosts", &format!("{0},{0}", fake.address)])
        .args(
            "--connections 2 --write-rate 400 --read-rate 400 --warmup 100ms --duration 500ms --quiet"
                .split(' '),
        )
        .args(["--json".as_ref(), json.as_os_str(), "--html".as_ref(), html.as_os_str()])
        .output()
        .expect("the binary runs");
    let text =
        std::fs::read_to_string(&json).unwrap_or_else(|e| panic!("{e}: {}", support::text(&out.stderr)));
    assert!(std::fs::read_to_string(&html).unwrap().contains("<svg"));
    (out, serde_json::from_str(&text).unwrap(), fake)
}

#[test]
fn without_trouble_all_is_acknowledged_and_found_again() {
    let (out, json, fake) = timeline(&Manners::default());
    assert_eq!(out.status.code(), Some(0), "{}", support::text(&out.stdout));
    assert_eq!(json["schema"], "loadgen-timeline/1");
    let summary = &json["summary"];
    let writes = summary["acknowledged_writes"].as_u64().unwrap();
    assert!(writes > 0);
    for nothing in ["errors", "lost_sessions", "lost_writes", "unchecked_sessions"] {
        assert_eq!(summary[nothing], 0, "{nothing}");
    }
    let samples = &json["runs"][0]["samples"];
    assert_eq!(samples["length_ms"], 10.0);
    let sum: u64 = samples["writes"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(sum, writes);
    assert_eq!(samples["writes"].as_array().unwrap().len(), 50);
    assert_eq!(fake.seen().renewals.load(Ordering::Relaxed), 0);
}

#[test]
fn who_loses_its_connection_comes_back_at_once_with_its_session() {
    let (out, json, fake) = timeline(&Manners { drop_at: Some(100), ..Manners::default() });
    assert_eq!(out.status.code(), Some(0), "{}", support::text(&out.stdout));
    assert_eq!(fake.seen().renewals.load(Ordering::Relaxed), 1);
    let summary = &json["summary"];
    assert!(summary["errors"].as_u64().unwrap() >= 1, "the read that was not answered, at least");
    assert_eq!((&summary["lost_sessions"], &summary["lost_writes"]), (&Value::from(0), &Value::from(0)));
    assert!(summary["first_loss"].is_string());
}

#[test]
fn a_session_that_has_expired_is_counted_and_replaced() {
    let (out, json, _) = timeline(&Manners { drop_at: Some(100), expire: true, ..Manners::default() });
    assert_eq!(out.status.code(), Some(1));
    assert_eq!(json["summary"]["lost_sessions"], 1);
    assert_eq!(json["summary"]["unchecked_sessions"], 0, "it goes on with a new one");
}

#[test]
fn acknowledged_writes_that_are_not_there_are_counted() {
    let (out, json, _) = timeline(&Manners { forget: true, ..Manners::default() });
    assert_eq!(out.status.code(), Some(1));
    // Those of the warm-up count, too.
    let lost = json["summary"]["lost_writes"].as_u64().unwrap();
    assert!(lost + 2 >= json["summary"]["acknowledged_writes"].as_u64().unwrap(), "{lost}");
}

#[test]
fn only_servers_of_its_own_can_be_killed() {
    for kill in [["--kill", "leader@100ms"], ["--kill-every", "200ms"]] {
        let fake = Fake::start(Manners::default());
        let out = Command::new(env!("CARGO_BIN_EXE_loadgen"))
            .args(["timeline", "--hosts", &fake.address.to_string(), "--down", "50ms", "--duration", "500ms"])
            .args(kill)
            .output()
            .expect("the binary runs");
        assert_eq!(out.status.code(), Some(1), "{}", support::text(&out.stdout));
        assert!(support::text(&out.stderr).contains("--ensemble"), "{}", support::text(&out.stderr));
    }
}

#[test]
fn refusals_are_errors() {
    let refuse = Some((engine::proto::Op::SetData, engine::error::Code::NOAUTH));
    let (out, json, _) = once(Manners { refuse, ..Manners::default() });
    assert_eq!(out.status.code(), Some(1), "nothing was acknowledged");
    assert_eq!(json["summary"]["valid"], false);
    assert_eq!(json["summary"]["first_refusal"], "NOAUTH (-102)");
}
