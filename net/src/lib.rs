//! net

pub mod cli;
pub mod config;
pub mod reactor;
pub mod ring;
pub mod words;
pub mod clock;
pub mod server;
pub mod system;
pub mod embed;
