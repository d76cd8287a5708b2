//! Names of buckets, as demands carry them: copied, so that a demand borrows nothing, and mostly
//! without an allocation.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

/// The longest name that needs no allocation, in bytes.
const SHORT: usize = 22;

/// A name of a bucket, a class or a share.
///
/// A short one is held in place. Comparing and hashing look at bytes only, which is all that a
/// demand needs that is granted at once.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Name(Text);

/// A text of up to [`SHORT`] bytes is always short, and the bytes after it are 0, so that equal
/// texts are equal.
#[derive(Clone, PartialEq, Eq)]
enum Text {
    Short { len: u8, bytes: [u8; SHORT] },
    Long(Arc<str>),
}

impl Name {
    #[inline]
    pub(crate) fn new(name: &str) -> Self {
        let mut bytes = [0; SHORT];
        match bytes.get_mut(..name.len()) {
            Some(short) => {
                short.copy_from_slice(name.as_bytes());
                Self(Text::Short { len: name.len() as u8, bytes })
            }
            None => Self(Text::Long(name.into())),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        match &self.0 {
            // It was a text when it was copied.
            Text::Short { .. } => str::from_utf8(self.as_bytes()).unwrap_or_default(),
            Text::Long(name) => name,
        }
    }

    #[inline]
    fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Text::Short { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Text::Long(name) => name.as_bytes(),
        }
    }
}

/// As that of a `str`.
impl Hash for Name {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.as_bytes());
        state.write_u8(0xff);
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher;

    use super::*;

    #[test]
    fn a_name_is_its_text_whatever_its_length() {
        let hashes = std::hash::RandomState::new();
        let texts: Vec<String> =
            (0..30).map(|len| "ä".repeat(len / 2) + &"b".repeat(len)).collect();
        for text in &texts {
            let name = Name::new(text);
            assert_eq!(name.as_str(), text);
            assert_eq!(hashes.hash_one(&name), hashes.hash_one(Name::new(&text.clone())));
            let equal: Vec<_> = texts.iter().filter(|other| Name::new(other) == name).collect();
            assert_eq!(equal, [text]);
            assert_eq!(format!("{name:?}"), format!("{text:?}"));
        }
        assert_ne!(Name::new("a"), Name::new("a\0"));
        assert_eq!(size_of::<Name>(), size_of::<std::borrow::Cow<'_, str>>());
    }
}
