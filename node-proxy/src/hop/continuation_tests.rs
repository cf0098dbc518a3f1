//! Older hops that newer ones continue, over real connections with real TLS: which do, and which are refused.

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::spawn_local;

use super::frame::{FrameHead, Kind};
use super::tests::{joined, on_a_thread, stream};
use super::{Deadline, EXPIRED, Hop, OpenError, Owner, Proof, Purpose, Register};
use crate::tls::FirstEnd;

fn in_millis(millis: u64) -> FirstEnd {
    FirstEnd::from(SystemTime::now() + Duration::from_millis(millis))
}

fn owner(account: &str) -> Owner {
    let identity = format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap();
    Owner { identity, address: Ipv4Addr::new(10, 0, 0, 1).into() }
}

/// Answers on the server's end of a hop of this owner, whose leaves end then, as the pod with this register does.
fn answer(server: Hop, register: Register, (owner, end): (Owner, FirstEnd)) {
    spawn_local(async move {
        while let Some(mut arrival) = server.arrival().await {
            assert_eq!(arrival.purpose(), Purpose::Continuation);
            match arrival.proof().await {
                Ok(proof) if register.put_off(&proof, &owner, end) => arrival.grant(),
                _ => arrival.refuse(),
            }
        }
    });
}

#[test]
fn both_ends_of_a_hop_know_its_proof_and_no_other_hop_has_it() {
    on_a_thread(async {
        let (client, server) = joined().await;
        let (other, _) = joined().await;
        assert!(client.proof().is_some());
        assert_eq!(client.proof(), server.proof());
        assert_ne!(client.proof(), other.proof());
        assert_eq!(format!("{:?}", client.proof()), "Some(Proof { .. })");
    });
}

#[test]
fn a_hop_that_newer_ones_continue_carries_its_streams_on_and_ends_with_the_last() {
    on_a_thread(async {
        let (register, begun) = (Register::default(), SystemTime::now());
        let (client, server) = joined().await;
        let (mut near, mut far) = stream(&client, &server).await;
        let ends = Deadline::new(in_millis(400));
        let _registered = register.enter(server.proof().unwrap(), owner("client"), ends.clone());
        spawn_local(ends.clone().enforce(server));
        let mut last = ends.end();
        // Another one's end comes in between, and changes nothing.
        for end in [in_millis(800), in_millis(600), in_millis(1200)] {
            let (newer, arrived) = joined().await;
            answer(arrived, register.clone(), (owner("client"), end));
            newer.continue_older(&client.proof().unwrap()).await.unwrap();
            assert_eq!(newer.streams(), 0, "nothing of it stays");
            last = last.max(end);
            assert_eq!(ends.end(), last);
        }
        near.write_all(b"held").await.unwrap();
        let mut held = [0; 4];
        far.read_exact(&mut held).await.unwrap();
        assert_eq!(&held, b"held");
        assert_eq!(far.read(&mut held).await.unwrap_err().kind(), EXPIRED);
        assert!(begun.elapsed().unwrap() >= Duration::from_millis(1200), "{:?}", begun.elapsed());
        assert!(last.is_over());
        assert!(near.read(&mut held).await.is_err());
    });
}

#[test]
fn a_hop_is_continued_for_nobody_else_and_never_when_it_has_ended() {
    on_a_thread(async {
        let register = Register::default();
        let (older, arrived) = joined().await;
        let (other, _other) = joined().await;
        let ends = Deadline::new(in_millis(60_000));
        let registered = register.enter(arrived.proof().unwrap(), owner("client"), ends.clone());
        let proof = older.proof().unwrap();
        let elsewhere = Owner { address: Ipv4Addr::new(10, 0, 0, 2).into(), ..owner("client") };
        let before = ends.end();
        let ask = async |asking: &Owner, proof: &Proof, register: &Register| {
            let (newer, arrived) = joined().await;
            answer(arrived, register.clone(), (asking.clone(), in_millis(90_000)));
            newer.continue_older(proof).await
        };
        for (asking, proof, register, what) in [
            (&owner("client"), &other.proof().unwrap(), &register, "the proof of a hop that is not there"),
            (&owner("client"), &Proof::from([0; Proof::LENGTH]), &register, "no proof at all"),
            (&owner("another"), &proof, &register, "another identity's"),
            (&elsewhere, &proof, &register, "another pod's of the same identity"),
            (&owner("client"), &proof, &Register::default(), "at another pod"),
        ] {
            assert_eq!(ask(asking, proof, register).await, Err(OpenError::Refused), "{what}");
            assert_eq!(ends.end(), before, "{what}");
        }
        assert_eq!(ask(&owner("client"), &proof, &register).await, Ok(()));
        assert!(ends.end() > before);
        // The same once more, when the hop is no longer there.
        drop(registered);
        assert_eq!(ask(&owner("client"), &proof, &register).await, Err(OpenError::Refused));
        let over = Deadline::new(in_millis(0));
        let _registered = register.enter(proof.clone(), owner("client"), over.clone());
        assert_eq!(
            ask(&owner("client"), &proof, &register).await,
            Err(OpenError::Refused),
            "its time is over"
        );
        assert!(over.end().is_over());
    });
}

#[test]
fn nobody_is_asked_on_a_hop_that_takes_nothing_new() {
    on_a_thread(async {
        let (older, _older) = joined().await;
        let proof = older.proof().unwrap();
        let (ended, other_end) = joined().await;
        other_end.reset();
        assert!(matches!(ended.continue_older(&proof).await, Err(OpenError::Ended(_))));
        let (sent_away, server) = joined().await;
        let (_near, _far) = stream(&sent_away, &server).await;
        server.go_away();
        while sent_away.is_open() {
            tokio::task::yield_now().await;
        }
        assert_eq!(sent_away.continue_older(&proof).await, Err(OpenError::SentAway));
        // The destination's side opens nothing, this neither.
        let (client, server) = joined().await;
        server.queue(FrameHead::new(1, Kind::Continue));
        assert!(client.arrival().await.is_none());
        assert!(matches!(client.open().await, Err(OpenError::Ended(_))));
    });
}
