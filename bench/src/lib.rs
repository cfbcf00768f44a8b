//! Benches, one per hot path (`benches/`), the bare echo server (`src/bin/echo.rs`) and the side-by-side script
//! (`side_by_side.py`). There is nothing to link against.
//!
//! Not here: tests (a bench measures, a test proves), the load generator (`loadgen`, whose echo the binary serves).
