//! What an image counts, as far as its size is known.

/// How a provider counts images.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Images {
    /// So much, and so much per tile of this side after it was scaled to fit 2048 px and its shorter side 768 px.
    Tiles { base: u64, tile: u64, side: u64 },
    /// A token for so many pixels, up to a bound.
    Area { pixels: u64, most: u64 },
}

impl Images {
    /// OpenAI's: <https://platform.openai.com/docs/guides/images-vision#calculating-costs>.
    pub(crate) const TILES: Self = Self::Tiles { base: 85, tile: 170, side: 512 };
    /// Anthropic's: <https://docs.anthropic.com/en/docs/build-with-claude/vision>.
    pub(crate) const AREA: Self = Self::Area { pixels: 750, most: 1_600 };

    /// The tokens of an image of this size; of one of 1024 px square where that is not known.
    pub(crate) fn tokens(self, size: Option<(u32, u32)>, low_detail: bool) -> u64 {
        let (width, height) =
            size.map_or((1_024, 1_024), |(w, h)| (u64::from(w.max(1)), u64::from(h.max(1))));
        match self {
            Self::Tiles { base, .. } if low_detail => base,
            Self::Tiles { base, tile, side } => {
                let (long, short) = (width.max(height), width.min(height));
                let (long, short) =
                    if long > 2_048 { (2_048, short * 2_048 / long) } else { (long, short) };
                let (long, short) =
                    if short > 768 { (long * 768 / short, 768) } else { (long, short) };
                base + tile * long.div_ceil(side) * short.max(1).div_ceil(side)
            }
            Self::Area { pixels, most } => width.saturating_mul(height).div_ceil(pixels).min(most),
        }
    }
}

/// What a text holds instead of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blob {
    /// An image, and its width and height if they can be read.
    Image(Option<(u32, u32)>),
    /// Something else.
    Other,
}

/// How far into an image its size is looked for.
const HEAD: usize = 64 * 1024;

/// Looks at a data URL.
pub(crate) fn data_url(text: &str) -> Option<Blob> {
    let (head, content) = text.strip_prefix("data:")?.split_once(',')?;
    let is_image = head.starts_with("image/");
    let size = head.ends_with(";base64").then(|| base64(content));
    Some(match size {
        Some(Blob::Image(size)) => Blob::Image(size),
        _ if is_image => Blob::Image(None),
        _ => Blob::Other,
    })
}

/// Looks at what is said to be base64.
pub(crate) fn base64(content: &str) -> Blob {
    // Enough for all but JPEG, whose size may come after a preview of it.
    let head: Vec<u8> = decoded(content).take(32).collect();
    let be = |at: usize| Some(u32::from_be_bytes(head.get(at..at + 4)?.try_into().ok()?));
    let le =
        |at: usize| Some(u32::from(u16::from_le_bytes(head.get(at..at + 2)?.try_into().ok()?)));
    let le24 = |at: usize| {
        Some(u32::from_le_bytes([*head.get(at)?, *head.get(at + 1)?, *head.get(at + 2)?, 0]))
    };
    match head.as_slice() {
        [0x89, b'P', b'N', b'G', ..] => Blob::Image(be(16).zip(be(20))),
        [b'G', b'I', b'F', b'8', ..] => Blob::Image(le(6).zip(le(8))),
        [0xff, 0xd8, 0xff, ..] => Blob::Image(jpeg(decoded(content).take(HEAD))),
        [
            b'R',
            b'I',
            b'F',
            b'F',
            _,
            _,
            _,
            _,
            b'W',
            b'E',
            b'B',
            b'P',
            b'V',
            b'P',
            b'8',
            kind,
            ..,
        ] => Blob::Image(match kind {
            b'X' => le24(24).zip(le24(27)).map(|(w, h)| (w + 1, h + 1)),
            b' ' => le(26).zip(le(28)).map(|(w, h)| (w & 0x3fff, h & 0x3fff)),
            _ => le(21).zip(le24(22)).map(|(w, h)| ((w & 0x3fff) + 1, (h >> 6 & 0x3fff) + 1)),
        }),
        _ => Blob::Other,
    }
}

/// The size in the first frame of a JPEG.
fn jpeg(mut bytes: impl Iterator<Item = u8>) -> Option<(u32, u32)> {
    bytes.nth(1)?;
    loop {
        while bytes.next()? != 0xff {}
        let marker = bytes.find(|byte| *byte != 0xff)?;
        let mut pair = || Some(u32::from(u16::from_be_bytes([bytes.next()?, bytes.next()?])));
        match marker {
            0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                pair()?;
                bytes.next()?;
                let mut pair =
                    || Some(u32::from(u16::from_be_bytes([bytes.next()?, bytes.next()?])));
                let height = pair()?;
                return Some((pair()?, height));
            }
            0x01 | 0xd0..=0xd7 => {}
            _ => {
                let length = pair()? as usize;
                if let Some(rest) = length.checked_sub(3) {
                    bytes.nth(rest)?;
                }
            }
        }
    }
}

/// The bytes of a base64 text, up to where it is none.
fn decoded(text: &str) -> impl Iterator<Item = u8> {
    let (mut bytes, mut bits, mut count) = (text.bytes(), 0_u32, 0);
    std::iter::from_fn(move || {
        while count < 8 {
            let digit = match bytes.next()? {
                byte @ b'A'..=b'Z' => byte - b'A',
                byte @ b'a'..=b'z' => byte - b'a' + 26,
                byte @ b'0'..=b'9' => byte - b'0' + 52,
                b'+' | b'-' => 62,
                b'/' | b'_' => 63,
                b'\r' | b'\n' => continue,
                _ => return None,
            };
            bits = bits << 6 | u32::from(digit);
            count += 6;
        }
        count -= 8;
        Some((bits >> count) as u8)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    fn encoded(bytes: &[u8]) -> String {
        let mut text = String::new();
        for group in bytes.chunks(3) {
            let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte))
                << (8 * (3 - group.len()));
            let digits = (0..=group.len())
                .map(|digit| DIGITS[(bits >> (18 - 6 * digit) & 63) as usize] as char);
            text.extend(digits);
        }
        text
    }

    fn size(head: &[&[u8]]) -> Blob {
        base64(&encoded(&head.concat()))
    }

    #[test]
    fn sizes_are_read() {
        let png = [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", &[0, 0, 4, 0, 0, 0, 3, 0][..]];
        assert_eq!(size(&png), Blob::Image(Some((1_024, 768))));
        assert_eq!(
            data_url(&format!("data:image/png;base64,{}", encoded(&png.concat()))),
            Some(Blob::Image(Some((1_024, 768))))
        );
        assert_eq!(size(&[b"GIF89a", &[44, 1, 200, 0], &[0; 9]]), Blob::Image(Some((300, 200))));
        let jpeg = [&[
            0xff, 0xd8, 0xff, 0xe0, 0, 6, 1, 2, 0xff, 0xc0, 0xff, 0xc0, 0, 17, 8, 1, 0, 2, 0,
        ][..]];
        assert_eq!(size(&jpeg), Blob::Image(Some((512, 256))), "not what its preview says");
        assert_eq!(
            size(&[b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0", &[0xff, 3, 0, 0xff, 1, 0]]),
            Blob::Image(Some((1_024, 512)))
        );
        assert_eq!(
            size(&[b"RIFF\0\0\0\0WEBPVP8 \0\0\0\0\0\0\0\x9d\x01\x2a", &[0, 4, 0, 2]]),
            Blob::Image(Some((1_024, 512)))
        );
    }

    #[test]
    fn what_cannot_be_read_is_of_no_size() {
        assert_eq!(base64("iVBORw0KGgo"), Blob::Image(None));
        assert_eq!(base64(""), Blob::Other);
        assert_eq!(base64("JVBERi0xLjcK"), Blob::Other, "a PDF");
        assert_eq!(data_url("data:image/svg+xml,<svg/>"), Some(Blob::Image(None)));
        assert_eq!(data_url("data:text/plain;base64,aGk="), Some(Blob::Other));
        assert_eq!(data_url("dates, and data: these"), None);
    }

    #[test]
    fn tiles_and_areas() {
        let tiles = |width, height| Images::TILES.tokens(Some((width, height)), false);
        assert_eq!((tiles(1_024, 1_024), tiles(2_048, 4_096), tiles(200, 100)), (765, 1_105, 255));
        assert_eq!(Images::TILES.tokens(Some((4_000, 3_000)), true), 85);
        assert_eq!(
            (Images::TILES.tokens(None, false), Images::TILES.tokens(Some((u32::MAX, 1)), false)),
            (765, 765)
        );
        let area = |size| Images::AREA.tokens(size, false);
        assert_eq!(
            (area(Some((1_000, 1_000))), area(Some((200, 200))), area(None)),
            (1_334, 54, 1_399)
        );
        assert_eq!(area(Some((u32::MAX, u32::MAX))), 1_600);
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd(kind in 0..4usize, bytes in proptest::collection::vec(any::<u8>(), 0..300), text in ".{0,80}") {
            let heads: [&[u8]; 4] = [b"\x89PNG", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBPVP8", b"GIF8"];
            let _ = size(&[heads[kind], &bytes]);
            let _ = (base64(&text), data_url(&text), data_url(&format!("data:{text}")));
            for rule in [Images::TILES, Images::AREA] {
                prop_assert!(rule.tokens(Some((bytes.len() as u32, 7)), false) > 0);
            }
        }
    }
}
