//! Keys and channels. All of a partition are in one slot of a cluster, and no name can be mistaken
//! for another.

use std::fmt::Write;

/// What the keys and the channels of a partition begin with: `prefix:{partition}:`.
pub(super) fn begin(prefix: &str, partition: &str) -> String {
    let mut begin = String::with_capacity(prefix.len() + partition.len() + 64);
    escape(&mut begin, prefix);
    begin.push_str(":{");
    escape(&mut begin, partition);
    begin.push_str("}:");
    begin
}

/// The key of the bucket `name`.
pub(super) fn key(prefix: &str, partition: &str, name: &str) -> Vec<u8> {
    let mut key = begin(prefix, partition);
    escape(&mut key, name);
    key.into_bytes()
}

/// What the channels of a partition's sessions begin with. The session in decimal follows.
pub(super) fn channel_prefix(prefix: &str, partition: &str) -> Vec<u8> {
    (begin(prefix, partition) + "wake:").into_bytes()
}

/// Returns the name of the bucket that `key` belongs to, if it is one of the partition whose keys
/// begin with `begin`.
pub(super) fn name_in(key: &[u8], begin: &[u8]) -> Option<String> {
    let mut escaped = key.strip_prefix(begin)?.iter();
    let mut name = Vec::with_capacity(escaped.len());
    while let Some(&byte) = escaped.next() {
        name.push(match byte {
            b'%' => hex_digit(escaped.next()?)? << 4 | hex_digit(escaped.next()?)?,
            byte if is_plain(byte) => byte,
            _ => return None,
        });
    }
    String::from_utf8(name).ok()
}

/// Appends `part` with all that could mean something in a key or in a log percent-encoded.
fn escape(to: &mut String, part: &str) {
    for byte in part.bytes() {
        if is_plain(byte) {
            to.push(byte.into());
        } else {
            // Writing to a string cannot fail.
            let _ = write!(to, "%{byte:02X}");
        }
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._-/@".contains(&byte)
}

fn hex_digit(digit: &u8) -> Option<u8> {
    char::from(*digit).to_digit(16)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_partition_share_a_hash_tag_that_no_name_can_break() {
        let key = key("my:app", "a}b", "c{d}\n:%\u{e9}");
        assert_eq!(String::from_utf8_lossy(&key), "my%3Aapp:{a%7Db}:c%7Bd%7D%0A%3A%25%C3%A9");
        let channel = channel_prefix("my:app", "a}b");
        assert_eq!(String::from_utf8_lossy(&channel), "my%3Aapp:{a%7Db}:wake:");
    }

    #[test]
    fn names_are_read_back() {
        for name in ["gpt-4o", "", "a b:{c}%20\u{e9}", "wake:7"] {
            assert_eq!(name_in(&key("p", "q", name), begin("p", "q").as_bytes()).as_deref(), Some(name));
        }
        for foreign in
            ["", "p:{q}", "p:{r}:a", "p:{q}:a!due", "p:{q}:%", "p:{q}:%4", "p:{q}:%zz", "p:{q}:%FF"]
        {
            assert_eq!(name_in(foreign.as_bytes(), begin("p", "q").as_bytes()), None, "{foreign}");
        }
    }
}
