//! Images, audio and documents in requests: how large they are, and how many tokens a provider
//! counts for them.
//!
//! Bytes come as base64, of which only the beginning is decoded. The arithmetic is the provider's
//! own where it publishes one; sources stand beside the rates.

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

/// Something in a request that is not text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Media {
    Image(Image),
    /// Seconds of it.
    Audio(f64),
    /// Seconds of it.
    Video(f64),
    /// Pages of it.
    Document(u64),
    /// Nothing that counts, as far as it is known.
    Other,
}

/// An image: its size if it is known, and whether little of it is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) size: Option<(u32, u32)>,
    pub(crate) low_detail: bool,
}

/// How a provider counts images.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ImageRate {
    /// So much, and so much per tile of 512 px after the image was scaled to fit 2048 px and its
    /// shorter side 768 px.
    Tiles { base: u64, tile: u64 },
    /// A token for so many pixels, up to a bound.
    Area { pixels: u64, most: u64 },
    /// Patches of 32 px, up to a bound, each so many hundredths of a token.
    Patches { most: u64, hundredths: u64 },
    /// So much per tile of 768 px; an image that fits 384 px is one tile.
    Crops { tile: u64 },
}

/// How a provider counts what is not text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MediaRates {
    /// By the beginning of the model's name; the first that matches counts.
    pub(crate) images: &'static [(&'static str, ImageRate)],
    pub(crate) audio_per_second: f64,
    pub(crate) video_per_second: f64,
    pub(crate) page: u64,
}

const TILES: ImageRate = ImageRate::Tiles { base: 85, tile: 170 };

impl MediaRates {
    /// <https://platform.openai.com/docs/guides/images-vision#calculating-costs>. Audio is a token
    /// for 100 ms, and a page of a PDF its text and an image of it.
    pub(crate) const OPENAI: Self = Self {
        images: &[
            ("gpt-4o-mini", ImageRate::Tiles { base: 2_833, tile: 5_667 }),
            ("gpt-4.1-mini", ImageRate::Patches { most: 1_536, hundredths: 162 }),
            ("gpt-4.1-nano", ImageRate::Patches { most: 1_536, hundredths: 246 }),
            ("gpt-5-mini", ImageRate::Patches { most: 1_536, hundredths: 162 }),
            ("gpt-5-nano", ImageRate::Patches { most: 1_536, hundredths: 246 }),
            ("o4-mini", ImageRate::Patches { most: 1_536, hundredths: 172 }),
            ("gpt-5", ImageRate::Tiles { base: 70, tile: 140 }),
            ("o1", ImageRate::Tiles { base: 75, tile: 150 }),
            ("o3", ImageRate::Tiles { base: 75, tile: 150 }),
            ("computer-use", ImageRate::Tiles { base: 65, tile: 129 }),
            ("gpt-image", ImageRate::Tiles { base: 65, tile: 129 }),
            ("", TILES),
        ],
        audio_per_second: 10.0,
        video_per_second: 0.0,
        page: 1_300,
    };
    /// <https://docs.anthropic.com/en/docs/build-with-claude/vision> and `../pdf-support`: 1,500 to
    /// 3,000 a page.
    pub(crate) const ANTHROPIC: Self = Self {
        images: &[("", ImageRate::Area { pixels: 750, most: 1_600 })],
        audio_per_second: 0.0,
        video_per_second: 0.0,
        page: 3_000,
    };
    /// <https://ai.google.dev/gemini-api/docs/tokens>: video is 258 a second and 32 for its sound.
    pub(crate) const GEMINI: Self = Self {
        images: &[("", ImageRate::Crops { tile: 258 })],
        audio_per_second: 32.0,
        video_per_second: 290.0,
        page: 258,
    };

    /// The tokens of one medium in a request to this model.
    pub(crate) fn tokens(&self, model: &str, media: Media) -> f64 {
        match media {
            Media::Image(image) => {
                let rate = self.images.iter().find(|(start, _)| model.starts_with(start));
                rate.map_or(TILES, |(_, rate)| *rate).tokens(image) as f64
            }
            Media::Audio(seconds) => seconds * self.audio_per_second,
            Media::Video(seconds) => seconds * self.video_per_second,
            Media::Document(pages) => pages.saturating_mul(self.page) as f64,
            Media::Other => 0.0,
        }
    }
}

impl ImageRate {
    /// The tokens of an image. An image of unknown size counts as one of 1024 px square.
    fn tokens(self, image: Image) -> u64 {
        let (width, height) =
            image.size.map_or((1_024, 1_024), |(w, h)| (u64::from(w.max(1)), u64::from(h.max(1))));
        match self {
            Self::Tiles { base, .. } if image.low_detail => base,
            Self::Tiles { base, tile } => {
                let (long, short) = (width.max(height), width.min(height));
                let (long, short) =
                    if long > 2_048 { (2_048, short * 2_048 / long) } else { (long, short) };
                let (long, short) =
                    if short > 768 { (long * 768 / short, 768) } else { (long, short) };
                base + tile * long.div_ceil(512) * short.max(1).div_ceil(512)
            }
            Self::Area { pixels, most } => width.saturating_mul(height).div_ceil(pixels).min(most),
            Self::Patches { most, hundredths } => {
                let patches = width.div_ceil(32).saturating_mul(height.div_ceil(32)).min(most);
                (patches * hundredths).div_ceil(100)
            }
            Self::Crops { tile } if width <= 384 && height <= 384 => tile,
            Self::Crops { tile } => {
                tile * width.div_ceil(768).saturating_mul(height.div_ceil(768)).min(1_000)
            }
        }
    }
}

/// How far into its bytes the size of a medium is looked for.
const HEAD: usize = 64 * 1024;
/// Bytes a second of sound and video whose rate is not known.
const SOUND_RATE: f64 = 8_000.0;
const VIDEO_RATE: f64 = 125_000.0;
/// Bytes of a PDF's page, where pages cannot be counted.
const PAGE: usize = 100 * 1024;

/// What a data URL holds; `None` for any other text.
pub(crate) fn data_url(text: &str) -> Option<Media> {
    let (head, content) = text.strip_prefix("data:")?.split_once(',')?;
    let is_encoded = head.ends_with(";base64");
    Some(match if is_encoded { base64(content) } else { Media::Other } {
        Media::Other if head.starts_with("image/") => Media::Image(Image::default()),
        media => media,
    })
}

/// What is encoded as base64.
pub(crate) fn base64(content: &str) -> Media {
    let head = decoded(content);
    // Three bytes in four characters.
    let length = content.len() / 4 * 3;
    if brand(&head).is_none_or(is_image) && imagesize::image_type(&head).is_ok_and(is_usual) {
        let size = imagesize::blob_size(&head).ok();
        let size =
            size.and_then(|size| Some((size.width.try_into().ok()?, size.height.try_into().ok()?)));
        return Media::Image(Image { size, low_detail: false });
    }
    match head.as_slice() {
        [b'%', b'P', b'D', b'F', ..] => Media::Document(pages(&head, length)),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E', ..] => {
            let rate =
                head.get(28..32).and_then(|rate| rate.try_into().ok()).map(u32::from_le_bytes);
            let rate = rate.filter(|rate| *rate > 0).map_or(SOUND_RATE, f64::from);
            Media::Audio(length as f64 / rate)
        }
        [b'I', b'D', b'3', ..] | [b'O', b'g', b'g', b'S', ..] | [b'f', b'L', b'a', b'C', ..] => {
            Media::Audio(length as f64 / SOUND_RATE)
        }
        [0xff, second, ..] if second & 0xe0 == 0xe0 => Media::Audio(length as f64 / SOUND_RATE),
        [_, _, _, _, b'f', b't', b'y', b'p', ..] | [0x1a, 0x45, 0xdf, 0xa3, ..] => {
            Media::Video(length as f64 / VIDEO_RATE)
        }
        _ => Media::Other,
    }
}

/// The brand of a file in the container that films and some images share.
fn brand(head: &[u8]) -> Option<&[u8]> {
    head.get(4..8).filter(|kind| *kind == b"ftyp").and(head.get(8..12))
}

fn is_image(brand: &[u8]) -> bool {
    matches!(brand, b"heic" | b"heix" | b"heif" | b"mif1" | b"msf1" | b"avif" | b"avis")
}

/// True for formats of images that models take, and that are known by more than two bytes.
fn is_usual(kind: imagesize::ImageType) -> bool {
    use imagesize::ImageType::{Bmp, Gif, Heif, Jpeg, Png, Tiff, Webp};
    matches!(kind, Bmp | Gif | Heif(_) | Jpeg | Png | Tiff | Webp)
}

/// The pages of a PDF: those that are told, or by its length.
fn pages(head: &[u8], length: usize) -> u64 {
    let told = head.windows(6).filter(|window| *window == b"/Page ").count();
    let told = told
        + head
            .windows(6)
            .filter(|window| {
                matches!(window, [b'/', b'P', b'a', b'g', b'e', b'/' | b'>' | b'\n' | b'\r'])
            })
            .count();
    let is_whole = length <= head.len() + 2;
    let by_length = length.div_ceil(PAGE).max(1) as u64;
    if is_whole && told > 0 { told as u64 } else { by_length.max(told as u64) }
}

/// The first bytes of a base64 text, up to where it is none.
fn decoded(text: &str) -> Vec<u8> {
    const ENGINE: GeneralPurpose = GeneralPurpose::new(
        &STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_allow_trailing_bits(true)
            .with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let digits =
        text.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')).map(|byte| match byte {
            b'-' => b'+',
            b'_' => b'/',
            byte => byte,
        });
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    let mut digits: Vec<u8> = digits.take_while(is_digit).take(HEAD / 3 * 4).collect();
    // A single digit holds less than a byte.
    if digits.len() % 4 == 1 {
        digits.pop();
    }
    ENGINE.decode(digits).unwrap_or_default()
}

/// Texts of base64 that are shorter may be words.
const SHORTEST_OPAQUE: usize = 256;
const SHORTEST_IN_TEXT: usize = 512;

/// What a long text of nothing but base64 holds, where a text may stand or only where something
/// else does.
pub(crate) fn hidden_base64(text: &str, is_text: bool) -> Option<Media> {
    let shortest = if is_text { SHORTEST_IN_TEXT } else { SHORTEST_OPAQUE };
    let is_digit = |byte: u8| {
        byte.is_ascii_alphanumeric()
            || matches!(byte, b'+' | b'/' | b'-' | b'_' | b'=' | b'\r' | b'\n')
    };
    if text.len() < shortest || !text.bytes().all(is_digit) {
        return None;
    }
    let has = |kind: fn(&u8) -> bool| text.as_bytes().iter().any(kind);
    // A word that is repeated is a text.
    let is_mixed =
        has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase) && has(u8::is_ascii_digit);
    (!is_text || is_mixed).then(|| base64(text))
}

#[cfg(test)]
mod tests;
