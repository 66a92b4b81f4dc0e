//! What the unit tests of the components share.

use provisioner_core::manifest::{Manifest, parse};

/// The smallest manifest with the shop: everything else is a default.
pub(crate) fn manifest() -> Manifest {
    parse(b"name: dev\napp:\n  binary: target/app\n").expect("the smallest manifest is right")
}
