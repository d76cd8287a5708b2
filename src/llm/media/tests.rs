use proptest::prelude::*;

use super::*;

fn encoded(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn media(parts: &[&[u8]]) -> Media {
    super::base64(&encoded(&parts.concat()))
}

fn image(width: u32, height: u32) -> Media {
    Media::Image(Image { size: Some((width, height)), low_detail: false })
}

const UNKNOWN: Media = Media::Image(Image { size: None, low_detail: false });

#[test]
fn sizes_are_read() {
    let png = [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", &[0, 0, 4, 0, 0, 0, 3, 0][..]].concat();
    assert_eq!(media(&[&png]), image(1_024, 768));
    let url = format!("data:image/png;base64,{}", encoded(&png));
    assert_eq!(data_url(&url), Some(image(1_024, 768)));
    assert_eq!(media(&[b"GIF89a", &[44, 1, 200, 0], &[0; 9]]), image(300, 200));
    let jpeg =
        [0xff, 0xd8, 0xff, 0xe0, 0, 6, 1, 2, 0xff, 0xc0, 0xff, 0xc0, 0, 17, 8, 1, 0, 2, 0, 3];
    assert_eq!(media(&[&jpeg]), image(512, 256), "not what its preview says");
    let webp = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\x03\0\xff\x01\0";
    assert_eq!(media(&[webp]), image(1_024, 512));
}

#[test]
fn other_media_are_known_by_their_bytes() {
    let wav =
        [b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\0\x7d\0\0\0\xfa\0\0", &[0; 128_000][..]]
            .concat();
    let Media::Audio(seconds) = media(&[&wav]) else { panic!("no audio") };
    assert!((2.0..2.01).contains(&seconds), "{seconds}");
    let pdf = b"%PDF-1.7\n<< /Type /Pages /Count 2 >> << /Type /Page /X 1 >> << /Type /Page>>";
    assert_eq!(media(&[pdf]), Media::Document(2));
    assert_eq!(media(&[b"%PDF-1.7", &[0; 1_000_000]]), Media::Document(10));
    assert!(matches!(media(&[b"ID3\x04", &[0; 8_000]]), Media::Audio(_)));
    assert!(matches!(media(&[b"\0\0\0\x18ftypmp42", &[0; 8_000]]), Media::Video(_)));
}

#[test]
fn what_cannot_be_read_is_of_no_size() {
    assert_eq!(super::base64("iVBORw0KGgoAAAANSUhE"), UNKNOWN);
    assert_eq!(super::base64(""), Media::Other);
    assert_eq!(data_url("data:image/svg+xml,<svg/>"), Some(UNKNOWN));
    assert_eq!(data_url("data:text/plain;base64,aGk="), Some(Media::Other));
    assert_eq!(data_url("dates, and data: these"), None);
}

#[test]
fn long_texts_of_base64_are_no_texts() {
    let blob = encoded(
        &(0..4_000_u32)
            .flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes())
            .collect::<Vec<_>>(),
    );
    assert_eq!(hidden_base64(&blob, true), Some(Media::Other));
    let word = "A".repeat(100_000);
    assert_eq!(
        (hidden_base64(&word, true), hidden_base64(&word, false)),
        (None, Some(Media::Other))
    );
    assert_eq!(hidden_base64(&"no base64, but words ".repeat(1_000), false), None);
    assert_eq!(hidden_base64(&blob[..200], false), None, "too short");
}

#[test]
fn every_provider_has_an_arithmetic_of_its_own() {
    let of =
        |rates: &MediaRates, model, width, height| rates.tokens(model, image(width, height)) as u64;
    let openai = |model, width, height| of(&MediaRates::OPENAI, model, width, height);
    assert_eq!(openai("gpt-4o", 1_024, 1_024), 765);
    assert_eq!((openai("gpt-4o", 2_048, 4_096), openai("gpt-4o", 200, 100)), (1_105, 255));
    assert_eq!(openai("gpt-4o-mini", 1_024, 1_024), 2_833 + 4 * 5_667);
    assert_eq!(openai("o4-mini-2025-04-16", 1_024, 1_024), 1_024 * 172 / 100 + 1);
    assert_eq!(openai("gpt-4.1-mini", 4_000, 4_000), 1_536 * 162 / 100 + 1);
    let low = Media::Image(Image { size: None, low_detail: true });
    assert_eq!(MediaRates::OPENAI.tokens("gpt-4o", low) as u64, 85);
    assert_eq!(openai("gpt-4o", u32::MAX, 1), 765);

    let anthropic = |width, height| of(&MediaRates::ANTHROPIC, "claude", width, height);
    assert_eq!((anthropic(1_000, 1_000), anthropic(200, 200)), (1_334, 54));
    assert_eq!(MediaRates::ANTHROPIC.tokens("claude", UNKNOWN) as u64, 1_399);
    assert_eq!(anthropic(u32::MAX, u32::MAX), 1_600);
    assert_eq!(MediaRates::ANTHROPIC.tokens("claude", Media::Document(3)) as u64, 9_000);

    let gemini = |width, height| of(&MediaRates::GEMINI, "gemini", width, height);
    assert_eq!((gemini(384, 384), gemini(1_000, 700), gemini(1_536, 1_536)), (258, 516, 1_032));
    assert_eq!(MediaRates::GEMINI.tokens("gemini", Media::Audio(60.0)) as u64, 1_920);
}

proptest! {
    #[test]
    fn no_bytes_are_too_odd(
        kind in 0..7usize,
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        text in ".{0,80}",
    ) {
        let heads: [&[u8]; 7] =
            [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBPVP8", b"GIF89a", b"%PDF", b"RIFF\0\0\0\0WAVE", b"\0\0\0\x18ftypheic"];
        let read = media(&[heads[kind], &bytes]);
        for rates in [MediaRates::OPENAI, MediaRates::ANTHROPIC, MediaRates::GEMINI] {
            prop_assert!(rates.tokens("gpt-4.1-mini", read) >= 0.0);
        }
        let _ = (super::base64(&text), data_url(&text), data_url(&format!("data:{text}")));
    }
}
