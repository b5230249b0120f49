//! Arguments, logging, signals; hands over to the app.

fn main() {}
