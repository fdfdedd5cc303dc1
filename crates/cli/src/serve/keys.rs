//! Keys pressed while `serve` runs on a terminal: `s` snapshot, `q` quit, `?` help.

use std::rc::Rc;

use drystone_core::lane::Lane;
use drystone_core::runtime::LocalRef;
use drystone_sys::Keys;
use serde_json::Value;

use super::session::Session;
use super::stop::Stop;

/// What the keys do, for people.
pub(super) const HELP: &str = "keys: s takes a snapshot of every disk, q stops";

/// Follows the keys until the terminal goes.
pub(super) async fn follow(keys: Option<&Keys>, local: &LocalRef, session: &Rc<Session>, stop: &Stop) {
    let Some(keys) = keys else { return };
    let mut lane = Lane::new(local.clone());
    while let Ok(key) = keys.next(&mut lane).await {
        match key {
            b'q' => {
                stop.ask();
            }
            b's' => {
                // Not awaited here: this task is dropped when the session ends, and a change runs to its end.
                let session = Rc::clone(session);
                local.spawn(Box::pin(async move { snapshot(&session).await }));
            }
            b'?' | b'h' => eprintln!("{HELP}"),
            _ => {}
        }
    }
}

async fn snapshot(session: &Session) {
    for result in session.snapshot_all().await {
        match result {
            Ok(done) => {
                let file = done.get("file").and_then(Value::as_str).unwrap_or_default();
                eprintln!("snapshot: writes go to '{file}' from now on");
            }
            Err(error) => eprintln!("drystone: {}", error.report()),
        }
    }
}
