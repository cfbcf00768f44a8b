//! net

pub mod config;
pub mod reactor;
pub mod ring;
pub mod words;
