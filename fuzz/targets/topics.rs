//! Topic names and filters: any text is a topic, a filter or refused, and what a filter takes is what the most
//! naive reading of it says.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sandpost::topic::{TopicFilter, TopicName};

// A filter on the first line, a topic on the second.
fuzz_target!(|text: &str| {
    let (filter, topic) = text.split_once('\n').unwrap_or((text, text));
    let name = TopicName::any(topic);
    let parsed = TopicFilter::parse(filter);

    // A client's topics are all that the bus does not keep to itself.
    assert_eq!(TopicName::client(topic).ok(), name.clone().ok().filter(|_| !topic.starts_with('$')));
    if let Ok(name) = &name {
        assert_eq!(name.as_str(), topic);
        // Every topic is the filter that takes it alone.
        let alone = TopicFilter::parse(topic).expect("a topic is a filter");
        assert!(alone.matches(topic));
        assert_eq!(alone.literal(), Some(topic));
    }
    let Ok(parsed) = parsed else { return };
    assert_eq!(parsed.as_str(), filter);
    assert_eq!(parsed.literal().is_some(), TopicName::any(filter).is_ok());
    if name.is_ok() {
        assert_eq!(parsed.matches(topic), takes(filter, topic), "`{filter}` on `{topic}`");
    }
});

/// What a filter means: token by token, a last `>` for one or more, and no wildcard in place of a first token that is
/// the bus's own.
fn takes(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.split('.').next() != topic.split('.').next() {
        return false;
    }
    fn rest_takes(filter: &[&str], topic: &[&str]) -> bool {
        match (filter, topic) {
            ([], []) => true,
            ([">"], [_, ..]) => true,
            ([token, filter @ ..], [name, topic @ ..]) => (*token == "*" || token == name) && rest_takes(filter, topic),
            _ => false,
        }
    }
    rest_takes(&filter.split('.').collect::<Vec<_>>(), &topic.split('.').collect::<Vec<_>>())
}
