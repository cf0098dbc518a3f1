//! Tests of address ranges.

use super::AddressRange;

#[track_caller]
fn check(range: &str, address: &str, expected: bool) {
    let range: AddressRange = range.parse().unwrap();
    assert_eq!(range.contains(address.parse().unwrap()), expected, "{address} in {range:?}");
}

#[test]
fn a_range_contains_exactly_the_addresses_with_its_prefix() {
    for (range, inside, outside) in [
        ("10.244.1.0/24", "10.244.1.255", "10.244.2.0"),
        ("10.244.1.7/24", "10.244.1.0", "10.244.0.255"),
        ("10.0.0.1/32", "10.0.0.1", "10.0.0.0"),
        ("10.0.0.0/31", "10.0.0.1", "10.0.0.2"),
        ("128.0.0.0/1", "255.255.255.255", "127.255.255.255"),
        ("fd00:1::/64", "fd00:1::ffff", "fd00:1:0:1::"),
        ("fd00::1/128", "fd00::1", "fd00::2"),
        ("fd00::/127", "fd00::1", "fd00::2"),
        ("8000::/1", "ffff::", "7fff::"),
    ] {
        check(range, inside, true);
        check(range, outside, false);
    }
}

#[test]
fn a_prefix_of_zero_bits_contains_its_whole_family_and_nothing_of_the_other() {
    check("0.0.0.0/0", "255.1.2.3", true);
    check("0.0.0.0/0", "::1", false);
    check("::/0", "ffff::1", true);
    check("::/0", "1.2.3.4", false);
}

#[test]
fn a_text_that_is_no_range_is_refused() {
    for text in ["", "10.0.0.0", "10.0.0.0/33", "::/129", "10.0.0.0/-1", "10.0.0/8", "10.0.0.0/"] {
        assert!(text.parse::<AddressRange>().is_err(), "{text}");
    }
}
