//! Where no runtime is, or none is left.

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

use tokio::runtime::Builder;
use tower_throttle::{Limiter, Throttled};

use crate::fake::*;

/// What a future answers without a runtime, which must be at once.
fn at_once<F: Future>(future: F) -> F::Output {
    let Poll::Ready(answer) = pin!(future).poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("it has to wait");
    };
    answer
}

#[test]
fn in_memory_no_runtime_is_needed_after_one_has_ended_while_somebody_waited() {
    let limiter = Limiter::new(limits()).unwrap();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let (call, waits) = runtime.block_on(async {
        let call = limiter.reserve(tokens(100)).await.unwrap();
        let waits = waiting(&limiter, tokens(30));
        quiet().await;
        (call, waits)
    });
    drop(runtime);
    assert!(waits.is_finished());

    at_once(call.release()).unwrap();
    let call = at_once(limiter.try_reserve(tokens(90))).unwrap();
    assert!(matches!(at_once(limiter.try_reserve(tokens(20))), Err(Throttled::NotNow(_))));
    at_once(call.settle(tower_throttle::usage! { tokens: 70 })).unwrap();
    at_once(at_once(limiter.try_reserve(tokens(30))).unwrap().keep()).unwrap();
}
