//! Whole speakers on simulated wires, with scripted time.

mod net;
mod restart;
mod scenarios;
mod simulation;
