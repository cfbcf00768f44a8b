//! The thinnest whole path: connect, write, read, restart.

mod common;

use common::{Client, create, get};

#[test]
fn what_was_acknowledged_is_there_after_stop_and_after_kill() {
    let server = net::embed::Server::start(net::embed::Options::default()).unwrap();
    let mut c = Client::connect(server.client_port());
    for i in 0..100 {
        assert_eq!(create(&mut c, &format!("/n{i}"), b"hello").err.0, 0);
    }
    assert_eq!(create(&mut c, "/n0", b"again").err, engine::error::Code::NODEEXISTS);
    assert_eq!(get(&mut c, "/n7").1.as_deref(), Some(&b"hello"[..]));
    let server = server.kill().start().unwrap();
    let mut c = Client::connect(server.client_port());
    assert_eq!(get(&mut c, "/n99").1.as_deref(), Some(&b"hello"[..]));
    assert_eq!(create(&mut c, "/after", b"x").err.0, 0);
    let server = server.pause().unwrap().start().unwrap();
    let mut c = Client::connect(server.client_port());
    assert_eq!(get(&mut c, "/after").1.as_deref(), Some(&b"x"[..]));
    assert_eq!(get(&mut c, "/nothing").0.err, engine::error::Code::NONODE);
    server.stop().unwrap();
}
