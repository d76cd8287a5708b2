//! Keys and channels. All of a partition are in one slot of a cluster, and no name can be mistaken
//! for another.

use percent_encoding::{
    AsciiSet, NON_ALPHANUMERIC, PercentEncode, percent_decode, utf8_percent_encode,
};

use crate::bucket::BucketKey;

/// The keys and channels of one partition. They begin with `prefix:{partition}:`.
pub(super) struct PartitionKeys {
    begin: String,
}

impl PartitionKeys {
    pub(super) fn new(prefix: &str, partition: &str) -> Self {
        Self { begin: format!("{}:{{{}}}:", escaped(prefix), escaped(partition)) }
    }

    /// The two keys of the bucket `name`: its state, and the index of what ends there when.
    pub(super) fn of_bucket(&self, name: &str) -> [Vec<u8>; 2] {
        let state = format!("{}{}", self.begin, escaped(name));
        let due = format!("{state}!due");
        [state.into_bytes(), due.into_bytes()]
    }

    /// What the channels of the partition's sessions begin with. The session in decimal follows.
    pub(super) fn channel_prefix(&self) -> Vec<u8> {
        [&self.begin, "wake:"].concat().into_bytes()
    }

    /// Returns the name of the bucket whose state has this key, if it is one of the partition.
    pub(super) fn name_in(&self, key: &[u8]) -> Option<String> {
        unescaped(key.strip_prefix(self.begin.as_bytes())?)
    }
}

/// All but what means nothing in a key, in a pattern or in a log.
const ESCAPED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'.').remove(b'_').remove(b'-').remove(b'/').remove(b'@');

fn escaped(part: &str) -> PercentEncode<'_> {
    utf8_percent_encode(part, ESCAPED)
}

/// Returns what was escaped; nothing if this is not how it is written.
fn unescaped(part: &[u8]) -> Option<String> {
    let name = percent_decode(part).decode_utf8().ok()?.into_owned();
    escaped(&name).flat_map(str::bytes).eq(part.iter().copied()).then_some(name)
}

/// What the keys of all buckets below a prefix match, as a pattern of SCAN; with a name, those of
/// that name in all partitions.
pub(super) fn pattern(prefix: &str, name: Option<&str>) -> String {
    // Nothing in an escaped part means anything in a pattern.
    let name = name.map_or("*".into(), |name| escaped(name).to_string());
    format!("{}:{{*}}:{name}", escaped(prefix))
}

/// Returns partition and name of the bucket whose state has this key, if it is one below the
/// prefix.
pub(super) fn bucket_at(prefix: &str, key: &[u8]) -> Option<BucketKey> {
    let begin = format!("{}:{{", escaped(prefix));
    let rest = key.strip_prefix(begin.as_bytes())?;
    let end = rest.windows(2).position(|pair| pair == b"}:")?;
    Some(BucketKey::new(&unescaped(&rest[..end])?, &unescaped(&rest[end + 2..])?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_partition_share_a_hash_tag_that_no_name_can_break() {
        let keys = PartitionKeys::new("my:app", "a}b");
        let [state, due] = keys.of_bucket("c{d}\n:%\u{e9}");
        assert_eq!(String::from_utf8_lossy(&state), "my%3Aapp:{a%7Db}:c%7Bd%7D%0A%3A%25%C3%A9");
        assert_eq!(due, [&state[..], b"!due"].concat());
        assert_eq!(String::from_utf8_lossy(&keys.channel_prefix()), "my%3Aapp:{a%7Db}:wake:");
    }

    #[test]
    fn buckets_are_found_by_their_keys() {
        for (partition, name) in [("default", "gpt-4o"), ("a}:b", "c{d}:e"), ("q", "")] {
            let [key, due] = PartitionKeys::new("my:app", partition).of_bucket(name);
            assert_eq!(bucket_at("my:app", &key), Some(BucketKey::new(partition, name)));
            assert_eq!(bucket_at("my:app", &due), None);
            assert_eq!(bucket_at("my", &key), None);
        }
        assert_eq!(pattern("my:app", None), "my%3Aapp:{*}:*");
        assert_eq!(pattern("p*", Some("a[b]")), "p%2A:{*}:a%5Bb%5D");
    }

    #[test]
    fn names_are_read_back() {
        let keys = PartitionKeys::new("p", "q");
        for name in ["gpt-4o", "", "a b:{c}%20\u{e9}", "wake:7"] {
            assert_eq!(keys.name_in(&keys.of_bucket(name)[0]).as_deref(), Some(name));
        }
        for foreign in
            ["", "p:{q}", "p:{r}:a", "p:{q}:a!due", "p:{q}:%", "p:{q}:%4", "p:{q}:%zz", "p:{q}:%FF"]
        {
            assert_eq!(keys.name_in(foreign.as_bytes()), None, "{foreign}");
        }
    }
}
