//! Endpoints that keep failing are spared, tried again, and taken back; never more than half of them.

use node_proxy::demo::command::until;

use crate::stage::{PATIENCE, ask, count, of, stage};

#[test]
fn an_endpoint_that_answers_503_is_spared_for_all_services_and_taken_back() {
    let stage = stage();
    stage.mood("moody-1", "503");
    let answers = stage.ask("http://moody/bad", 300);
    let failed = count(&answers, "503");
    println!("503 of one of three endpoints: {failed} of 300 requests");
    // Five in a row, and one more whenever its penalty is over; without ejection it would be a hundred.
    assert!((5..15).contains(&failed), "{failed} of 300");
    assert_eq!(count(&answers, "200"), 300 - failed);
    assert!(stage.ejections("moody") >= 1.0);
    let log = stage.with(|world| world.proxy("node-a").unwrap().log());
    assert!(log.contains("an endpoint keeps failing") && log.contains("pod=\"shop/moody-1\""), "{log}");
    // It is the endpoint that is spared, whoever leads there.
    let failed = count(&stage.ask("http://moody-too/bad", 100), "503");
    assert!(failed <= 3, "{failed} of 100");
    stage.mood("moody-1", "well");
    let is_back = || of(&stage.ask("http://moody/again", 20), "moody-1") > 2;
    assert!(until(PATIENCE * 3, is_back), "it is not taken back");
    let answers = stage.ask("http://moody/afterwards", 150);
    let shares = [1, 2, 3].map(|number| of(&answers, &format!("moody-{number}")));
    assert!(shares.iter().all(|share| *share > 20), "{shares:?}");
    let log = stage.with(|world| world.proxy("node-a").unwrap().log());
    assert!(log.contains("it is back"), "{log}");
}

#[test]
fn an_error_of_the_application_is_an_answer() {
    let stage = stage();
    stage.mood("erring-1", "500");
    let answers = stage.ask("http://erring/500", 100);
    let failed = count(&answers, "500");
    assert!((25..75).contains(&failed) && count(&answers, "200") == 100 - failed, "{failed} of 100");
    assert_eq!(stage.ejections("erring"), 0.0);
}

#[test]
fn a_bad_moment_of_all_endpoints_is_no_outage() {
    let stage = stage();
    let servers = ["gloomy-1", "gloomy-2", "gloomy-3"];
    servers.iter().for_each(|server| stage.mood(server, "503"));
    let answers = stage.ask("http://gloomy/all-bad", 200);
    assert_eq!(count(&answers, "503"), 200);
    // Of three one may go. The others are asked on: nobody knows better.
    assert_eq!(stage.spared("gloomy"), 1);
    let asked = servers.map(|server| stage.logged(server, "REQUEST /all-bad"));
    println!("all three bad: {asked:?} requests");
    assert!(asked.iter().filter(|asked| **asked > 50).count() >= 2, "{asked:?}");
    servers.iter().for_each(|server| stage.mood(server, "well"));
    let answers = stage.ask("http://gloomy/all-well", 30);
    assert_eq!(count(&answers, "200"), 30, "{answers:?}");
}

#[test]
fn an_endpoint_that_resets_is_spared() {
    let stage = stage();
    stage.mood("rude-2", "reset");
    // Not safe to repeat: each failure is the client's to see.
    let post = ["-d", "x", "-H", "Connection: close"];
    let answers = stage.with(|world| ask(world, "client", "http://rude/post", &post, 150));
    let failed = count(&answers, "502");
    println!("resets of one of three endpoints: {failed} of 150 requests");
    assert!((5..15).contains(&failed), "{failed} of 150: {answers:?}");
    stage.mood("rude-2", "well");
}

#[test]
fn an_endpoint_whose_answers_break_off_is_spared_on_both_wires() {
    let stage = stage();
    for (wire, bad) in [("--http1.1", "fickle-1"), ("--http2-prior-knowledge", "fickle-2")] {
        let before = stage.ejections("fickle");
        stage.mood(bad, "half");
        // A process for each request: this curl has one only on a connection of HTTP/2 by prior knowledge.
        let each = format!("for n in $(seq 150); do curl -s {wire} --max-time 20 http://fickle/half; done");
        let done = stage.with(|world| world.exec("client", &["sh", "-c", &each]).unwrap());
        let broken = 150 - done.stdout.matches("fickle-").count();
        println!("{wire}: half an answer of one of three endpoints: {broken} of 150 requests");
        // Five in a row, and one more whenever its penalty is over; without ejection it would be fifty.
        assert!((5..15).contains(&broken), "{wire}: {broken}, {done:?}");
        assert!(stage.ejections("fickle") > before, "{wire}");
        stage.mood(bad, "well");
        let is_back = || of(&stage.ask("http://fickle/again", 20), bad) > 2;
        assert!(until(PATIENCE * 3, is_back), "{wire}: it is not taken back");
    }
}

#[test]
fn an_endpoint_that_refuses_is_spared_and_nobody_notices() {
    let stage = stage();
    let post = ["-d", "x", "-H", "Connection: close"];
    let answers = stage.with(|world| ask(world, "client", "http://part/post", &post, 200));
    assert_eq!(count(&answers, "200"), 200);
    let log = stage.with(|world| world.proxy("node-a").unwrap().log());
    let refused =
        log.lines().filter(|line| line.contains("an endpoint was not reached") && line.contains(":8081"));
    let refused = refused.count();
    println!("refused dials of one of three endpoints: {refused} for 200 requests");
    assert!((5..20).contains(&refused), "{refused} dials");
    assert!(stage.ejections("part") >= 1.0);
}
