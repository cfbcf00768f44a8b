//! net

pub mod ring;
