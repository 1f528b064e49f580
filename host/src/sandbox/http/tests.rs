//! What leaves and when, at the hooks that `wasi:http` calls. How a guest sees it is tested on the whole bus.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use http_body_util::Empty;
use tokio::sync::oneshot;

use super::super::tests::Bench;
use super::*;

/// A server that answers when it is told, and a manifest that grants it.
fn service() -> (TcpListener, Manifest) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let grant = HttpGrant::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    (listener, Manifest { http: vec![HttpGrant { private: true, ..grant }], ..Manifest::default() })
}

fn request(manifest: &Manifest) -> Request<WasiBody> {
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    Request::get(format!("{}/x", manifest.http[0].origin)).body(body).unwrap()
}

fn sending(synced: Option<StateSynced>) -> Sending {
    Sending { synced, subscription: "email".into(), delivery: "order.placed@1".to_owned() }
}

/// Hands a request to the hooks, as `wasi:http` does.
fn send(http: &mut Http, request: Request<WasiBody>, sending: Sending) -> Pin<Box<dyn Future<Output = Answer> + Send>> {
    let mut table = ResourceTable::new();
    let view = http.sending(&mut table, sending);
    view.hooks.send_request(request, None, Box::new(ready(Ok(())))).into()
}

#[test]
fn a_request_waits_until_what_its_call_stands_on_is_synced() {
    let bench = Bench::new();
    let (listener, manifest) = service();
    let mut http = Http::new(bench.program_with(&manifest).version().clone());
    let (synced, waits) = oneshot::channel();
    let waits: StateSynced = Box::pin(async move { waits.await.unwrap_or(false) });
    bench.runtime.block_on(async {
        let mut answer = send(&mut http, request(&manifest), sending(Some(waits)));
        for _ in 0..100 {
            assert!(answer.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            tokio::task::yield_now().await;
        }
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "nothing left");
        assert!(http.is_open());
        synced.send(true).unwrap();
        let server = std::thread::spawn(move || {
            listener.set_nonblocking(false).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            assert!(stream.read(&mut [0; 1_000]).unwrap() > 0);
            stream.write_all(b"HTTP/1.1 204 Done\r\n\r\n").unwrap();
        });
        let (answer, _) = answer.await.unwrap();
        assert_eq!(answer.status(), 204);
        assert!(http.is_open(), "an answer is open until it is let go");
        drop(answer);
        assert!(!http.is_open());
        server.join().unwrap();
    });
}

#[test]
fn nothing_leaves_where_nothing_will_be_synced_or_nothing_is_to_leave() {
    let bench = Bench::new();
    let (listener, manifest) = service();
    let mut http = Http::new(bench.program_with(&manifest).version().clone());
    bench.runtime.block_on(async {
        let never: StateSynced = Box::pin(ready(false));
        let answer = send(&mut http, request(&manifest), sending(Some(never))).await;
        assert!(matches!(answer, Err(Error::ConnectionTerminated)));
        let answer = send(&mut http, request(&manifest), sending(None)).await;
        assert!(matches!(answer, Err(Error::HttpRequestDenied)));
    });
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn one_call_has_so_many_requests_open_and_no_more() {
    let bench = Bench::new();
    let (_listener, manifest) = service();
    let mut http = Http::new(bench.program_with(&manifest).version().clone());
    let _entered = bench.runtime.enter();
    let waits = || sending(Some(Box::pin(std::future::pending()) as StateSynced));
    let open: Vec<_> =
        (0..limits::HTTP_REQUESTS_OPEN_MAX).map(|_| send(&mut http, request(&manifest), waits())).collect();
    let mut refused = send(&mut http, request(&manifest), waits());
    let answer = refused.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(answer, Poll::Ready(Err(Error::ConnectionLimitReached))));
    drop(open);
    assert!(!http.is_open());
}
