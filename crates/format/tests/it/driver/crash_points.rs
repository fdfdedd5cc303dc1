//! Every change of metadata in several steps (`changes`), cut at every boundary with every subset of unflushed writes lost.

use drystone_testkit::crash::CrashPoints;

use super::changes::for_each_change;
use super::scripted::Scripted;
use super::state::State;

macro_rules! tests_of {
    ($($name:ident: $state:expr, $script:expr;)*) => { $(
        #[test]
        fn $name() {
            let (name, state) = (stringify!($name).replace('_', " "), $state);
            CrashPoints::of(&name, state.images.clone()).look_at(&Scripted { state: &state, script: $script });
        }
    )* };
}

fn new(kind: &str) -> State {
    State::new(kind)
}

for_each_change!(tests_of);

#[test]
fn an_image_is_marked_as_damaged() {
    super::marked::look_at("an image is marked as damaged");
}
