//! Mixture of experts: the router, and the expert-parallel all-to-all that takes token rows to the ranks of their experts
//! and back. `docs/moe.md` has layouts, orders and promises.

mod operands;
pub mod protocol;
mod router;

pub use operands::{Picks, PicksMut};
pub use router::{Router, RouterConfig, Scoring};
