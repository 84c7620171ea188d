//! Mixture of experts: the router, and the expert-parallel all-to-all that takes token rows to the ranks of their experts
//! and back. `docs/moe.md` has layouts, orders and promises.

mod exchange;
mod group;
mod layout;
mod ledger;
mod observe;
mod operands;
pub mod protocol;
mod rendezvous;
mod router;

pub use exchange::{Channel, Combine, Dispatch, InFlight, Received, Rejected};
pub use group::{Group, Rendezvous};
pub use layout::{CombineMode, GroupConfig, Payload, SendPath};
pub use ledger::{Cost, Ledger};
pub use observe::{Observation, PeerStats};
pub use operands::{Addends, ExpertRows, Picks, PicksMut, Rows};
pub use router::{Router, RouterConfig, Scoring};
