//! The modes of use are a closed list: nobody adds one that writes without permission.
use drystone_core::backend::{Mode, Writes};

enum Sneaky {}

impl Mode for Sneaky {} //~ E0277
//~ says: `Sneaky` is not a mode of using a node
impl Writes for Sneaky {} //~ E0277

fn main() {}
