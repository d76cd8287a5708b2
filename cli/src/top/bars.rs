//! The bar of a quota: what is charged, held and withheld of its limit.

use ratatui::{
    style::{Color, Stylize},
    text::Span,
};
use tower_throttle::store::QuotaView;

/// The parts of a bar, so many cells wide.
pub(super) fn bar(quota: &QuotaView, width: u16) -> Vec<Span<'static>> {
    let [charged, held, withheld] = cells(quota, width);
    let free = usize::from(width) - charged - held - withheld;
    vec![
        "\u{2588}".repeat(charged).fg(color(quota)),
        "\u{2593}".repeat(held).fg(color(quota)),
        "\u{2592}".repeat(withheld).fg(Color::Magenta),
        "\u{b7}".repeat(free).fg(Color::DarkGray),
    ]
}

/// What part of a quota is taken or withheld: above 1 in debt.
pub(super) fn used_share(quota: &QuotaView) -> f64 {
    1.0 - quota.available / quota.limit.max(1) as f64
}

/// How many cells are charged, held and withheld. What there is at all is seen, unless the bar is
/// full.
fn cells(quota: &QuotaView, width: u16) -> [usize; 3] {
    let limit = quota.limit.max(1) as f64;
    let mut left = usize::from(width);
    [quota.charged, quota.held as f64, quota.withheld].map(|amount| {
        let cells = (amount / limit * f64::from(width)).round() as usize;
        let cells = if amount > 0.0 { cells.max(1) } else { 0 }.min(left);
        left -= cells;
        cells
    })
}

fn color(quota: &QuotaView) -> Color {
    match used_share(quota) {
        share if share >= 0.95 => Color::Red,
        share if share >= 0.75 => Color::Yellow,
        _ => Color::Green,
    }
}
