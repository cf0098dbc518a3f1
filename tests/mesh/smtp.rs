//! A protocol in which the server speaks first, with a real server: SMTP.

use crate::rig::stage;

const LETTER: &str = r#"
import smtplib, sys
client = smtplib.SMTP(sys.argv[1], int(sys.argv[2]), timeout=20)
client.sendmail("a@client", ["b@mail"], "Subject: through %s\r\n\r\n%s" % (sys.argv[2], "line\r\n" * 20000))
print(client.quit()[0])
"#;

#[test]
fn letters_are_delivered_on_every_kind_of_port() {
    let stage = stage();
    for (port, kind) in
        [(25, "the name smtp"), (26, "no declaration"), (27, "the name tcp"), (28, "appProtocol tcp")]
    {
        let port = port.to_string();
        let done = stage.world.exec("client", &["python3", "-c", LETTER, "mail", &port]).unwrap();
        assert_eq!(done.stdout, "221\n", "{kind}: {}", done.stderr);
        assert!(stage.app_log("mail").contains(&format!("Subject: through {port}")), "{kind}");
        stage.wait_lines("node-a", &["shop/mail ", &format!("dst.port={port} ")], 1)[0].check(&[
            ("protocol", "opaque"),
            ("mtls", "yes"),
            ("level", "INFO"),
            ("src.identity", "spiffe://cluster.local/ns/shop/sa/client"),
            ("dst.identity", "spiffe://cluster.local/ns/shop/sa/mail"),
        ]);
    }
    let labels = ["service=\"mail\"", "port=\"26\"", "protocol=\"opaque\""];
    assert_eq!(stage.metric("gammarus_detected_protocol_total", &labels), 1.0);
    let peer = format!("X-Peer: ('::ffff:{}'", stage.address("client"));
    assert!(stage.app_log("mail").contains(&peer), "the server does not see the client's address");
}

#[test]
fn curl_sends_a_letter_too() {
    let stage = stage();
    let file = stage.file("letter");
    std::fs::write(&file, "Subject: by curl\r\n\r\ntext\r\n").unwrap();
    let arguments = ["--mail-from", "a@client", "--mail-rcpt", "b@mail", "-T", &file, "smtp://mail:29"];
    stage.curl(&arguments);
    assert!(stage.app_log("mail").contains("Subject: by curl"));
}
