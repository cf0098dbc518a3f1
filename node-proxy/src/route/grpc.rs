//! GRPCRoute's method matches on the matchers of HTTP.
