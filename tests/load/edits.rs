//! Edits of routes that nobody may notice.

/// What a rule may do to requests without an answer being another one.
const FILTERS: [&str; 5] = [
    "",
    "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-edit, value: one}], remove: [x-other]}}",
    "{type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: x-edit, value: two}]}}",
    "{type: RequestMirror, requestMirror: {backendRef: {name: v1, port: 80}, percent: 20}}",
    "{type: URLRewrite, urlRewrite: {hostname: another.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}",
];

/// The backends of a port, by changing weights, and the filter of so many edits.
pub(crate) fn edit(edits: u32) -> (impl Fn(u16) -> String, &'static str) {
    let weight = edits * 7 % 101;
    let split = move |port: u16| {
        format!(
            "backendRefs: [{{name: v1, port: {port}, weight: {weight}}}, {{name: v2, port: {port}, weight: {}}}]",
            100 - weight
        )
    };
    (split, FILTERS[edits as usize % FILTERS.len()])
}
