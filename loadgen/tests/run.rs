//! Whole runs against small servers in this process: what is counted, and as what.

mod support;

use clap::Parser;
use engine::error::Code;
use engine::proto::Op;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use loadgen::cli::RunArgs;
use loadgen::report::Outcome;
use loadgen::run::execute;
use loadgen::workload::Operation;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;
use support::{Fake, Manners};

/// Flags of `loadgen run`, for a target.
fn run_args(hosts: &[SocketAddr], flags: &str) -> RunArgs {
    #[derive(Parser)]
    struct Wrapper {
        #[command(flatten)]
        run: RunArgs,
    }
    let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
    let hosts = hosts.join(",");
    let line = ["run", "--hosts", &hosts, "--quiet", "--seed", "1"];
    Wrapper::parse_from(line.into_iter().chain(flags.split_whitespace())).run
}

/// A run of a new server with a window in which enough was done. A machine that is busy with other things may do nothing
/// at all in a short one, so it gets longer ones; the last of them stands whatever came of it.
fn run(
    manners: &Manners,
    flags: &str,
    window_ms: u64,
    enough: impl Fn(&mut Outcome) -> bool,
) -> (Fake, Outcome) {
    let mut last = None;
    for factor in [1, 5, 25] {
        let fake = Fake::start(manners.clone());
        let flags = format!("{flags} --warmup 0s --duration {}ms", window_ms * factor);
        let mut outcome = execute(&run_args(&[fake.address], &flags)).unwrap();
        let done = enough(&mut outcome);
        last = Some((fake, outcome));
        if done {
            break;
        }
    }
    last.unwrap()
}

fn valid(outcome: &mut Outcome) -> bool {
    outcome.invalid_reasons().is_empty()
}

#[test]
fn every_operation_is_drawn_answered_and_cleaned_up() {
    let flags = "--mix get=1,exists=1,children=1,set=1,create=2,delete=1,watch=1 --connections 3 --outstanding 4 \
                 --keys 50 --children 7";
    let all_drawn = |o: &mut Outcome| Operation::ALL.iter().all(|op| !o.latencies.at(*op).is_empty());
    let (fake, mut outcome) = run(&Manners::default(), flags, 300, all_drawn);
    assert!(outcome.clean(), "{}", loadgen::report::table(&outcome));
    for op in Operation::ALL {
        let n = outcome.latencies.at(*op).len();
        assert!(n > 0, "{op:?}");
    }
    let seen = fake.seen();
    let (created, deleted) = (seen.creates.load(Ordering::Relaxed), seen.deletes.load(Ordering::Relaxed));
    assert!(created > 50 + 7 + 2, "keys, children, two directories, and the operation: {created}");
    assert_eq!(created, deleted, "what was created is deleted");
    // The table leaves the latencies in; each row is there.
    let table = loadgen::report::table(&outcome);
    for op in Operation::ALL {
        assert!(table.contains(&format!("\n{}", op.name())), "{table}");
    }
}

#[test]
fn keep_leaves_the_nodes() {
    let (fake, outcome) = run(&Manners::default(), "--keep --keys 5", 50, valid);
    assert!(outcome.clean());
    assert_eq!(fake.seen().deletes.load(Ordering::Relaxed), 0);
}

/// How many values of a histogram are at least `ns`.
fn at_least(h: &Histogram<u64>, ns: u64) -> u64 {
    h.len() - h.count_between(0, ns)
}

#[test]
fn an_open_loop_shows_a_stall_to_all_requests_that_were_planned_in_it() {
    let stall = Duration::from_millis(600);
    let fake = Fake::start(Manners { stall: Some((60, stall)), ..Manners::default() });
    // 200 requests per second are planned; one session that waits for each reply sends none during the stall.
    let flags =
        "--rate 200 --connections 1 --outstanding 1 --read-ratio 1 --keys 1 --warmup 0s --duration 2s";
    let mut outcome = execute(&run_args(&[fake.address], flags)).unwrap();
    let planned_slow = at_least(outcome.latencies.at(Operation::Get), 200_000_000);
    let sent_slow = at_least(outcome.service.as_ref().unwrap(), 200_000_000);
    // Those planned in the first 400 ms of it waited for 200 ms or more: 80 of them, less what rounding takes.
    assert!(planned_slow >= 75, "{planned_slow}");
    assert!(
        sent_slow < planned_slow / 2,
        "{sent_slow} of {planned_slow}: counted from sending a stall hides"
    );
    assert!(outcome.counters.held_back >= 75, "{}", outcome.counters.held_back);
    let late = outcome.lateness.as_ref().unwrap();
    let due = outcome.latencies.all().len();
    assert_eq!(
        late.len() + outcome.counters.held_back,
        due,
        "a request is either on time, late or held back"
    );
}

#[test]
fn a_plan_keeps_its_number_of_requests_whatever_their_gaps() {
    let fake = Fake::start(Manners::default());
    for (gaps, expected) in [("", 1000..=1000), ("--poisson", 850..=1150)] {
        let flags =
            format!("--rate 1000 {gaps} --connections 4 --read-ratio 1 --keys 10 --warmup 0s --duration 1s");
        let outcome = execute(&run_args(&[fake.address], &flags)).unwrap();
        let n = outcome.latencies.all().len() + outcome.counters.never_sent;
        assert!(expected.contains(&n), "{gaps} {n}");
    }
}

#[test]
fn error_replies_are_counted_by_code_and_are_in_no_latency() {
    let refuse = Some((Op::SetData, Code::BADVERSION));
    let manners = Manners { refuse, ..Manners::default() };
    let both = |o: &mut Outcome| !o.latencies.at(Operation::Get).is_empty() && !o.counters.errors.is_empty();
    let (_, mut outcome) = run(&manners, "--mix get=1,set=1 --keys 5", 200, both);
    let errors: Vec<_> = outcome.counters.errors.iter().collect();
    let [((Operation::Set, code), n)] = errors[..] else { panic!("{errors:?}") };
    assert_eq!(*code, Code::BADVERSION.0);
    assert!(*n > 0);
    assert!(outcome.latencies.at(Operation::Set).is_empty());
    assert!(!outcome.latencies.at(Operation::Get).is_empty());
    assert_eq!(outcome.counters.completed[Operation::Set as usize], 0);
    assert!(!outcome.clean());
    assert!(outcome.invalid_reasons().is_empty(), "errors do not make it invalid");
}

#[test]
fn what_has_no_reply_at_the_end_is_counted() {
    let manners = Manners { silent_from: Some(101), ..Manners::default() };
    let flags = "--read-ratio 1 --keys 5 --connections 2 --outstanding 8 --drain 50ms --keep";
    let (_, outcome) = run(&manners, flags, 300, |o| o.latencies.all().len() >= 100);
    assert_eq!(outcome.latencies.all().len(), 100);
    assert_eq!(outcome.counters.without_reply[Operation::Get as usize], 16, "all that is in flight");
    assert!(!outcome.clean());
}

#[test]
fn a_lost_connection_is_counted_with_what_it_owed_and_the_others_go_on() {
    let manners = Manners { drop_at: Some(100), ..Manners::default() };
    let flags = "--read-ratio 1 --keys 5 --connections 2 --outstanding 1";
    let (_, outcome) = run(&manners, flags, 300, |o| o.latencies.all().len() > 100);
    assert_eq!(outcome.counters.lost_connections, 1);
    assert_eq!(outcome.counters.connection_loss[Operation::Get as usize], 1);
    assert!(outcome.latencies.all().len() > 100, "the other session went on");
    assert!(!outcome.clean());
}

#[test]
fn a_population_that_is_refused_ends_the_run_with_its_code() {
    let fake = Fake::start(Manners { refuse: Some((Op::Create, Code::NOAUTH)), ..Manners::default() });
    let error = execute(&run_args(&[fake.address], "--duration 50ms")).unwrap_err();
    assert!(format!("{error:#}").contains("NOAUTH (-102)"), "{error:#}");
}

#[test]
fn keys_of_an_earlier_run_are_set_again() {
    let refuse = Some((Op::Create, Code::NODEEXISTS));
    let manners = Manners { refuse, ..Manners::default() };
    let (_, outcome) = run(&manners, "--read-ratio 1 --keys 20", 50, valid);
    assert_eq!(outcome.population.requests, 40, "20 creates that failed, 20 sets");
    assert!(outcome.clean());
}

#[test]
fn sessions_are_authenticated_and_a_refusal_is_no_session() {
    let flags = "--auth digest:me:secret --connections 2 --keys 1";
    let (fake, outcome) = run(&Manners::default(), flags, 50, valid);
    assert!(outcome.clean());
    let auths = fake.seen().auths.lock().unwrap().clone();
    assert!(auths.len() >= 2 && auths.iter().all(|a| *a == ("digest".to_owned(), b"me:secret".to_vec())));

    let refuse = Some((Op::Auth, Code::AUTHFAILED));
    let fake = Fake::start(Manners { refuse, ..Manners::default() });
    let error = execute(&run_args(&[fake.address], flags)).unwrap_err();
    assert!(error.downcast_ref::<loadgen::client::CannotConnect>().is_some(), "{error:#}");
}

#[test]
fn sessions_are_spread_over_servers_and_each_ones_share_is_shown() {
    let fakes = [Fake::start(Manners::default()), Fake::start(Manners::default())];
    let hosts = [fakes[0].address, fakes[1].address];
    let window = |ms: u64| {
        let flags = format!("--connections 3 --workers 2 --keys 5 --warmup 0s --duration {ms}ms");
        execute(&run_args(&hosts, &flags)).unwrap()
    };
    let mut outcome = window(200);
    if outcome.servers.iter().any(|s| s.operations == 0) {
        outcome = window(5_000);
    }
    let sessions: Vec<usize> = outcome.servers.iter().map(|s| s.connections).collect();
    assert_eq!(sessions, [2, 1]);
    let by_server: u64 = outcome.servers.iter().map(|s| s.operations).sum();
    assert_eq!(by_server, outcome.counters.completed.iter().sum::<u64>());
    assert!(outcome.servers.iter().all(|s| s.operations > 0));
    assert!(loadgen::report::table(&outcome).contains("share"));
}

#[test]
fn the_interval_log_holds_every_latency_under_its_operations_tag() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("run.hlog");
    let fake = Fake::start(Manners::default());
    let flags = format!(
        "--mix get=1,set=1 --keys 5 --warmup 0s --duration 1500ms --rate 500 --hdr {}",
        log.display()
    );
    let mut outcome = execute(&run_args(&[fake.address], &flags)).unwrap();
    let bytes = std::fs::read(&log).unwrap();
    assert!(bytes.starts_with(b"#[Histogram log format version 1.3]\n"));
    let mut deserializer = Deserializer::new();
    let mut seen = [0, 0];
    let mut intervals = 0;
    for entry in IntervalLogIterator::new(&bytes) {
        let LogEntry::Interval(line) = entry.expect("a line of the format") else { continue };
        let slot = ["get", "set"].iter().position(|t| *t == line.tag().unwrap().as_str()).unwrap();
        let histogram: Histogram<u64> = deserializer
            .deserialize(&mut &*base64_decode(line.encoded_histogram()))
            .expect("a compressed histogram");
        seen[slot] += histogram.len();
        intervals += 1;
    }
    assert_eq!(intervals, 4, "two intervals of two operations");
    let recorded = [Operation::Get, Operation::Set].map(|op| outcome.latencies.at(op).len());
    assert_eq!(seen, recorded);
}

/// Standard base64; a dependency for one test would be more to keep.
fn base64_decode(text: &str) -> Vec<u8> {
    let value = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = text.bytes().filter(|c| *c != b'=').map(value).collect();
    let group = |g: &[u8]| {
        let bits = g.iter().fold(0u32, |n, d| n << 6 | u32::from(*d)) << (6 * (4 - g.len()));
        bits.to_be_bytes()[1..g.len()].to_vec()
    };
    digits.chunks(4).flat_map(group).collect()
}
