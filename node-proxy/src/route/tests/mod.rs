//! Tests of the route stage.
