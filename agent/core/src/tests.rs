//! The core under the real driver, with the mirror as its journal. Every test ends with "nothing else happened".

mod ahead;
mod gates;
mod guards;
mod harness;
mod history;
mod life;
mod order;
mod pace;
mod recovery;
mod renewal;
mod restart;
mod signal;
mod strict;
mod switch;
mod world;
