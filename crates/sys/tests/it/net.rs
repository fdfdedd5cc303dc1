//! Sockets: whole messages, peers that stall or vanish, closing, deadlines, listeners.

use std::io::{IoSlice, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::rc::Rc;

use drystone_base::Kind;
use drystone_core::lane::Lane;
use drystone_core::runtime::{LocalRef, yield_now};
use drystone_sys::{Address, Closer, Listener, Network, Stream, Watched};

use crate::common::{Arrivals, Folder, here_on_each_engine, on_each_engine};

fn lane(local: &LocalRef) -> Lane {
    Lane::new(Rc::clone(local))
}

fn any_port() -> Address {
    Address::Tcp("127.0.0.1:0".parse().unwrap())
}

fn addresses(folder: &Folder) -> [Address; 2] {
    [Address::Unix(folder.path("socket")), any_port()]
}

#[test]
fn a_request_and_its_reply_pass_over_unix_and_tcp() {
    let folder = Folder::new();
    for address in addresses(&folder) {
        here_on_each_engine(|local| {
            let listener = Listener::bind(&address).unwrap();
            async move {
                let (server, mut mine) = (Rc::clone(&local), lane(&local));
                let address = listener.address().clone();
                local.spawn(Box::pin(async move {
                    let mut mine = lane(&server);
                    let (mut receiver, mut sender) = listener.accept(&mut mine).await.unwrap().split();
                    assert!(receiver.fill(&mut mine, 5).await.unwrap());
                    let mut answer = receiver.buffered().to_vec();
                    answer.reverse();
                    receiver.consume(5);
                    sender.send(&mut mine, &mut [IoSlice::new(b"<"), IoSlice::new(&answer)]).await.unwrap();
                    assert!(!receiver.fill(&mut mine, 1).await.unwrap());
                }));
                let (mut receiver, mut sender) =
                    Stream::connect(&mut mine, &address, None).await.unwrap().split();
                sender.send(&mut mine, &mut [IoSlice::new(b"hello")]).await.unwrap();
                let mut answer = [0; 6];
                receiver.recv_exact(&mut mine, &mut answer).await.unwrap();
                assert_eq!(&answer, b"<olleh");
                sender.finish().unwrap();
                assert!(!receiver.fill(&mut mine, 1).await.unwrap());
            }
        });
    }
}

#[test]
fn messages_larger_than_the_socket_and_of_more_parts_than_one_call_takes_arrive_whole() {
    here_on_each_engine(|local| async move {
        let (near, far) = Stream::pair().unwrap();
        let (_, mut sender) = near.split();
        let (mut receiver, _) = far.split();
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
        let (sent, mut theirs) = (bytes.clone(), lane(&local));
        local.spawn(Box::pin(async move {
            let mut parts: Vec<_> = sent.chunks(700).map(IoSlice::new).collect();
            parts.insert(0, IoSlice::new(b""));
            parts.push(IoSlice::new(b""));
            sender.send(&mut theirs, &mut parts).await.unwrap();
            sender.send(&mut theirs, &mut []).await.unwrap();
        }));
        let mut mine = lane(&local);
        assert!(receiver.fill(&mut mine, 1000).await.unwrap());
        assert_eq!(receiver.buffered()[..1000], bytes[..1000]);
        receiver.consume(1000);
        let mut middle = vec![0; 1_000_000];
        receiver.recv_exact(&mut mine, &mut middle).await.unwrap();
        assert_eq!(middle, bytes[1000..1_001_000]);
        assert!(receiver.fill(&mut mine, 1_999_000).await.unwrap());
        assert_eq!(*receiver.buffered(), bytes[1_001_000..]);
    });
}

#[test]
fn a_peer_that_goes_in_the_middle_of_a_message_is_told_from_one_that_goes_after_it() {
    here_on_each_engine(|local| async move {
        let mut mine = lane(&local);
        let (near, mut far) = UnixStream::pair().unwrap();
        let (mut receiver, mut sender) = Stream::from_fd(near.into()).unwrap().split();
        far.write_all(b"abc").unwrap();
        drop(far);
        assert_eq!(receiver.fill(&mut mine, 4).await.unwrap_err().kind(), Kind::Disconnected);
        receiver.consume(3);
        assert!(!receiver.fill(&mut mine, 4).await.unwrap());
        assert_eq!(receiver.recv_exact(&mut mine, &mut [0]).await.unwrap_err().kind(), Kind::Disconnected);
        // No SIGPIPE: the process is still there to see the error.
        let error = sender.send(&mut mine, &mut [IoSlice::new(b"x")]).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Disconnected);
    });
}

#[test]
fn closing_ends_what_waits_from_another_thread() {
    on_each_engine(2, |threads| {
        let (near, far) = Stream::pair().unwrap();
        let closer = near.closer();
        let arrivals = Arrivals::default();
        let (begun, ended) = (arrivals.clone(), arrivals.clone());
        threads.handles()[1]
            .spawn(move |local| async move {
                let (mut receiver, mut sender) = near.split();
                let flood = vec![0; 64 << 20];
                let (sending, mut theirs) = (ended.clone(), lane(&local));
                local.spawn(Box::pin(async move {
                    let error = sender.send(&mut theirs, &mut [IoSlice::new(&flood)]).await.unwrap_err();
                    assert_eq!(error.kind(), Kind::Cancelled);
                    sending.arrive();
                }));
                begun.arrive();
                let mut mine = lane(&local);
                let error = receiver.fill(&mut mine, 1).await.unwrap_err();
                assert_eq!(error.kind(), Kind::Cancelled);
                assert_eq!(receiver.fill(&mut mine, 1).await.unwrap_err().kind(), Kind::Cancelled);
                ended.arrive();
            })
            .unwrap();
        threads.run_here(|_| async {
            arrivals.wait_for(1).await;
            closer.close();
            arrivals.wait_for(3).await;
        });
        drop(far);
    });
}

#[test]
fn closing_a_listener_ends_its_accept() {
    let folder = Folder::new();
    for address in addresses(&folder) {
        here_on_each_engine(|local| {
            let listener = Listener::bind(&address).unwrap();
            async move {
                let closer: Closer = listener.closer();
                local.spawn(Box::pin(async move { closer.close() }));
                let mut mine = lane(&local);
                assert_eq!(listener.accept(&mut mine).await.err().unwrap().kind(), Kind::Cancelled);
                assert_eq!(listener.accept(&mut mine).await.err().unwrap().kind(), Kind::Cancelled);
            }
        });
    }
}

#[test]
fn a_peer_that_stalls_meets_the_deadline_and_disturbs_nobody() {
    here_on_each_engine(|local| async move {
        let (near, _silent) = Stream::pair().unwrap();
        let (mut receiver, mut sender) = near.split();
        let mut mine = lane(&local);
        let soon = local.now_ns() + 5_000_000;
        receiver.set_deadline(Some(soon));
        assert_eq!(receiver.fill(&mut mine, 1).await.unwrap_err().kind(), Kind::TimedOut);
        assert!(local.now_ns() >= soon);
        sender.set_deadline(Some(local.now_ns() + 5_000_000));
        let flood = vec![0; 64 << 20];
        let error = sender.send(&mut mine, &mut [IoSlice::new(&flood)]).await.unwrap_err();
        assert_eq!(error.kind(), Kind::TimedOut);
        let torn = sender.send(&mut mine, &mut [IoSlice::new(b"more")]).await.unwrap_err();
        assert_eq!(torn.kind(), Kind::Cancelled);
    });
}

#[test]
fn a_dropped_fill_loses_no_byte() {
    here_on_each_engine(|local| async move {
        let (near, mut far) = UnixStream::pair().unwrap();
        let (mut receiver, _) = Stream::from_fd(near.into()).unwrap().split();
        let mut mine = lane(&local);
        far.write_all(b"ab").unwrap();
        receiver.set_deadline(Some(local.now_ns()));
        assert_eq!(receiver.fill(&mut mine, 4).await.unwrap_err().kind(), Kind::TimedOut);
        far.write_all(b"cd").unwrap();
        receiver.set_deadline(None);
        assert!(receiver.fill(&mut mine, 4).await.unwrap());
        assert_eq!(receiver.buffered(), b"abcd");
    });
}

#[test]
fn a_connection_is_served_on_another_thread_than_it_was_accepted_on() {
    let folder = Folder::new();
    on_each_engine(2, |threads| {
        let path = folder.path("socket");
        let listener = Listener::bind(&Address::Unix(path.clone())).unwrap();
        let mut client = UnixStream::connect(&path).unwrap();
        let far = threads.handles()[1].clone();
        threads.run_here(|local| async move {
            let stream = listener.accept(&mut lane(&local)).await.unwrap();
            far.spawn(move |local| async move {
                let (mut receiver, mut sender) = stream.split();
                let mut mine = lane(&local);
                receiver.fill(&mut mine, 2).await.unwrap();
                sender.send(&mut mine, &mut [IoSlice::new(receiver.buffered())]).await.unwrap();
            })
            .unwrap();
        });
        client.write_all(b"hi").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "hi");
    });
}

#[test]
fn a_socket_of_a_dead_process_is_taken_over_and_that_of_a_living_one_is_not() {
    let folder = Folder::new();
    let path = folder.path("socket");
    let address = Address::Unix(path.clone());
    let living = Listener::bind(&address).unwrap();
    assert_eq!(Listener::bind(&address).err().unwrap().kind(), Kind::InUse);
    // A listener of the standard library leaves its path behind, as a killed process does.
    drop(living);
    assert!(!path.exists());
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    drop(Listener::bind(&address).unwrap());
    folder.file("socket", b"not a socket");
    assert_eq!(Listener::bind(&address).err().unwrap().kind(), Kind::InUse);
    let long = Address::Unix(PathBuf::from("/x".repeat(100)));
    assert_eq!(Listener::bind(&long).err().unwrap().kind(), Kind::InvalidInput);
}

#[test]
fn a_listener_removes_its_own_path_only() {
    let folder = Folder::new();
    let path = folder.path("socket");
    let old = Listener::bind(&Address::Unix(path.clone())).unwrap();
    std::fs::remove_file(&path).unwrap();
    let new = Listener::bind(&Address::Unix(path.clone())).unwrap();
    drop(old);
    assert!(path.exists());
    drop(new);
    assert!(!path.exists());
}

#[test]
fn connecting_to_nobody_fails_and_names_of_hosts_are_found() {
    let folder = Folder::new();
    here_on_each_engine(|local| {
        let nobody = Address::Unix(folder.path("nobody"));
        async move {
            let mut mine = lane(&local);
            assert_eq!(Stream::connect(&mut mine, &nobody, None).await.err().unwrap().kind(), Kind::NotFound);
            let listener = Listener::bind(&any_port()).unwrap();
            let Address::Tcp(address) = listener.address().clone() else { panic!("not TCP") };
            drop(listener);
            let error = Stream::connect(&mut mine, &Address::Tcp(address), None).await.err().unwrap();
            assert_eq!(error.errno(), 111, "{}", error.report());
            let found = Address::resolve(&mut mine, "localhost", 10809).await.unwrap();
            assert!(found.contains(&Address::Tcp("127.0.0.1:10809".parse().unwrap())));
        }
    });
}

#[test]
fn a_network_that_hangs_up_ends_its_own_connections_and_makes_no_more() {
    let folder = Folder::new();
    here_on_each_engine(|local| {
        let listener = Listener::bind(&Address::Unix(folder.path("hang-up"))).unwrap();
        async move {
            let mut mine = lane(&local);
            let address = listener.address().clone();
            let network = Network::os();
            let apart = network.apart();
            let (mut receiver, _sender) = network.connect(&mut mine, &address, None).await.unwrap().split();
            let (_other, mut spared) = apart.connect(&mut mine, &address, None).await.unwrap().split();
            network.demand_answered().unwrap();
            let waits = Arrivals::default();
            let (arrivals, on) = (waits.clone(), Rc::clone(&local));
            local.spawn(Box::pin(async move {
                let error = receiver.fill(&mut lane(&on), 1).await.err().unwrap();
                assert_eq!(error.kind(), Kind::Cancelled);
                arrivals.arrive();
            }));
            yield_now().await;
            network.hang_up();
            waits.wait_for(1).await;
            assert_eq!(network.demand_answered().err().unwrap().kind(), Kind::Disconnected);
            let refused = network.connect(&mut mine, &address, None).await.err().unwrap();
            assert_eq!(refused.kind(), Kind::Cancelled);
            spared.send(&mut mine, &mut [IoSlice::new(b"hello")]).await.unwrap();
            apart.demand_answered().unwrap();
        }
    });
}

#[test]
fn both_directions_of_one_descriptor_are_waited_for_at_once() {
    here_on_each_engine(|local| async move {
        let (near, mut far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let flood = vec![0; 1 << 20];
        while (&near).write(&flood).is_ok() {}
        let watched = Watched::new(near.into());
        let arrivals = Arrivals::default();
        for writes in [false, true] {
            let (watched, arrivals, mut mine) = (watched.clone(), arrivals.clone(), lane(&local));
            local.spawn(Box::pin(async move {
                if writes {
                    watched.writable(&mut mine).await.unwrap();
                } else {
                    watched.readable(&mut mine).await.unwrap();
                }
                arrivals.arrive();
            }));
        }
        // Both wait by the time this timer fires; then each is served by what it waits for alone.
        local.sleep_until(local.now_ns() + 1_000_000).await;
        assert_eq!(arrivals.count(), 0);
        far.write_all(b"x").unwrap();
        arrivals.wait_for(1).await;
        far.set_nonblocking(true).unwrap();
        let mut sink = vec![0; 1 << 20];
        while far.read(&mut sink).is_ok() {}
        arrivals.wait_for(2).await;
    });
}
