//! What is shown, and what keys do to it. It knows no server and no time of its own.

use std::{cmp::Ordering, sync::Arc, time::Duration};

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Stylize},
    text::{Line, Span},
};
use tower_throttle::store::{BucketDetail, BucketKey, BucketView};

use super::{bars::used_share, detail, list, rates::Rates};
use crate::words;

/// What the server said.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) buckets: Vec<BucketView>,
    /// The bucket that was looked at closely, and what was seen of it if it has a state.
    pub(super) close: Option<(Arc<BucketKey>, Option<BucketDetail>)>,
}

/// What is to be done about a key.
#[derive(Debug, PartialEq)]
pub(super) enum Todo {
    Nothing,
    Look,
    Quit,
}

/// What the list is sorted by.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sort {
    Worst,
    Name,
    Waiting,
    Grants,
    NoRoom,
}

impl Sort {
    const ALL: [Self; 5] = [Self::Worst, Self::Name, Self::Waiting, Self::Grants, Self::NoRoom];

    fn name(self) -> &'static str {
        match self {
            Self::Worst => "worst first",
            Self::Name => "name",
            Self::Waiting => "waiting",
            Self::Grants => "grants",
            Self::NoRoom => "no room",
        }
    }

    fn next(self) -> Self {
        let at = Self::ALL.iter().position(|sort| *sort == self).unwrap_or(0);
        Self::ALL[(at + 1) % Self::ALL.len()]
    }
}

/// The state of the screen.
#[derive(Debug)]
pub(super) struct App {
    place: String,
    prefix: String,
    buckets: Vec<BucketView>,
    close: Option<(Arc<BucketKey>, Option<BucketDetail>)>,
    rates: Rates,
    /// Those that the filter lets through, sorted: indexes of `buckets`.
    shown: Vec<usize>,
    sort: Sort,
    filter: String,
    is_typing: bool,
    is_frozen: bool,
    /// The bucket under the cursor, which stays with it where others move.
    selected: Option<Arc<BucketKey>>,
    /// The bucket that is shown closely.
    opened: Option<Arc<BucketKey>>,
    /// The first bucket on the screen, and how many were on it.
    top: usize,
    page: usize,
    /// Why the last look failed.
    problem: Option<String>,
}

impl App {
    pub(super) fn new(place: &str, prefix: &str, filter: String) -> Self {
        Self {
            place: place.to_owned(),
            prefix: prefix.to_owned(),
            buckets: Vec::new(),
            close: None,
            rates: Rates::default(),
            shown: Vec::new(),
            sort: Sort::Worst,
            filter,
            is_typing: false,
            is_frozen: false,
            selected: None,
            opened: None,
            top: 0,
            page: 1,
            problem: None,
        }
    }

    /// Nothing is to be looked at: the picture stands still.
    pub(super) fn is_frozen(&self) -> bool {
        self.is_frozen
    }

    pub(super) fn opened(&self) -> Option<Arc<BucketKey>> {
        self.opened.clone()
    }

    /// Takes in what the server said.
    pub(super) fn see(&mut self, look: Look) {
        self.rates.see(&look.buckets);
        (self.buckets, self.close, self.problem) = (look.buckets, look.close, None);
        self.arrange();
    }

    /// The server said nothing, or no.
    pub(super) fn miss(&mut self, problem: String) {
        self.problem = Some(words::plain(&problem));
    }

    pub(super) fn press(&mut self, key: KeyEvent) -> Todo {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if key.code == KeyCode::Char('c') { Todo::Quit } else { Todo::Nothing };
        }
        if self.is_typing {
            self.type_filter(key.code);
            return Todo::Nothing;
        }
        match key.code {
            KeyCode::Char('q') => return Todo::Quit,
            KeyCode::Char(' ') => {
                self.is_frozen = !self.is_frozen;
                if !self.is_frozen {
                    return Todo::Look;
                }
            }
            KeyCode::Esc | KeyCode::Backspace | KeyCode::Left if self.opened.is_some() => {
                (self.opened, self.close) = (None, None);
            }
            _ if self.opened.is_some() => {}
            KeyCode::Esc => {
                self.filter.clear();
                self.arrange();
            }
            KeyCode::Char('/') => self.is_typing = true,
            KeyCode::Char('s') => {
                self.sort = self.sort.next();
                self.top = 0;
                self.arrange();
            }
            KeyCode::Enter | KeyCode::Right => {
                self.opened = self.selected.clone();
                return Todo::Look;
            }
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::PageDown => self.step(self.page as isize),
            KeyCode::PageUp => self.step(-(self.page as isize)),
            KeyCode::Home | KeyCode::Char('g') => self.step(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => self.step(isize::MAX),
            _ => {}
        }
        Todo::Nothing
    }

    fn type_filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.is_typing = false,
            KeyCode::Esc => {
                self.is_typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) => self.filter.push(c),
            _ => {}
        }
        self.arrange();
    }

    fn step(&mut self, by: isize) {
        let last = self.shown.len().saturating_sub(1);
        let at = self.cursor().unwrap_or(0).saturating_add_signed(by).min(last);
        self.selected = self.shown.get(at).map(|&index| self.buckets[index].key.clone());
    }

    /// Where the selected bucket is among those shown.
    fn cursor(&self) -> Option<usize> {
        let selected = self.selected.as_ref()?;
        self.shown.iter().position(|&index| self.buckets[index].key == *selected)
    }

    fn arrange(&mut self) {
        let filter = self.filter.to_lowercase();
        let passes = |bucket: &BucketView| bucket.key.name().to_lowercase().contains(&filter);
        let shown = (0..self.buckets.len()).filter(|&index| passes(&self.buckets[index]));
        // What comes first by its number, and those of equal numbers by name.
        let mut shown: Vec<_> =
            shown.map(|index| (self.rank(&self.buckets[index]), index)).collect();
        let place = |index: usize| {
            let key = &self.buckets[index].key;
            (key.name(), key.partition())
        };
        shown.sort_by(|(one, at), (other, other_at)| {
            let order = other.partial_cmp(one).unwrap_or(Ordering::Equal);
            order.then_with(|| place(*at).cmp(&place(*other_at)))
        });
        self.shown = shown.into_iter().map(|(_, index)| index).collect();
        if self.cursor().is_none() {
            self.selected = self.shown.first().map(|&index| self.buckets[index].key.clone());
        }
    }

    /// How far up a bucket belongs: the largest comes first.
    fn rank(&self, bucket: &BucketView) -> [f64; 3] {
        let rate = || self.rates.of(bucket.key.id()).unwrap_or_default();
        match self.sort {
            Sort::Worst => trouble(bucket),
            Sort::Name => [0.0; 3],
            Sort::Waiting => [bucket.waiting as f64, 0.0, 0.0],
            Sort::Grants => [rate().granted, 0.0, 0.0],
            Sort::NoRoom => [rate().looks_refused, 0.0, 0.0],
        }
    }

    pub(super) fn draw(&mut self, frame: &mut Frame<'_>) {
        let [head, body, foot] =
            Layout::vertical([Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1)])
                .areas(frame.area());
        frame.render_widget(self.head(), head);
        match &self.opened {
            Some(key) => {
                let rate = self.rates.of(key.id());
                // Another one may have been looked at before the key was pressed.
                let close = self.close.as_ref().filter(|(seen, _)| seen == key);
                let detail = close.map(|(_, detail)| detail.as_ref());
                detail::draw(frame, body, key, detail, rate);
            }
            None => self.draw_list(frame, body),
        }
        frame.render_widget(self.foot(), foot);
    }

    fn draw_list(&mut self, frame: &mut Frame<'_>, area: Rect) {
        let cursor = self.cursor().unwrap_or(0);
        let shown: Vec<_> = self.shown.iter().map(|&index| &self.buckets[index]).collect();
        self.top = list::first_shown(&shown, self.top, cursor, area.height);
        self.page = list::draw(
            frame,
            area,
            &shown[self.top.min(shown.len())..],
            cursor - self.top.min(cursor),
            &self.rates,
        );
    }

    fn head(&self) -> Line<'_> {
        let waiting = self.buckets.iter().fold(0, |sum, bucket| bucket.waiting.saturating_add(sum));
        let paused = self.buckets.iter().filter(|bucket| bucket.paused_until.is_some()).count();
        let at = self.buckets.iter().map(|bucket| bucket.at).max();
        let mut parts = vec![
            Span::from("tower-throttle ").bold(),
            format!("{}  prefix {}  ", self.place, self.prefix).into(),
            words::count(self.buckets.len() as u64, "bucket").into(),
        ];
        if !self.filter.is_empty() {
            parts.push(format!(", {} shown", self.shown.len()).into());
        }
        parts.push(format!("  {} waiting  {paused} paused", words::grouped(waiting)).into());
        if let Some(at) = at {
            parts.push(format!("  {}", words::time(at)).dim());
        }
        if self.is_frozen {
            parts.push("  frozen".fg(Color::Yellow));
        }
        Line::from(parts)
    }

    fn foot(&self) -> Line<'_> {
        if let Some(problem) = &self.problem {
            return Line::from(problem.as_str()).fg(Color::White).bg(Color::Red);
        }
        if self.is_typing {
            return Line::from(format!("filter: {}_   Enter keeps it, Esc drops it", self.filter));
        }
        let keys: &[(&str, &str)] = match self.opened {
            Some(_) => &[("Esc", "back"), ("Space", "freeze"), ("q", "quit")],
            None => &[
                ("\u{2191}\u{2193}", "choose"),
                ("Enter", "detail"),
                ("/", "filter"),
                ("s", "sort"),
                ("Space", "freeze"),
                ("q", "quit"),
            ],
        };
        let mut parts: Vec<Span<'_>> = Vec::new();
        for (key, what) in keys {
            parts.push(format!(" {key} ").reversed());
            parts.push(format!(" {what}  ").into());
        }
        if self.opened.is_none() {
            parts.push(format!("by {}", self.sort.name()).dim());
        }
        if !self.filter.is_empty() {
            parts.push(format!("  filter: {}", words::plain(&self.filter)).fg(Color::Cyan));
        }
        Line::from(parts)
    }
}

/// How badly a bucket is off: whether it is paused, how long a demand waits, and how full its
/// fullest quota is.
fn trouble(bucket: &BucketView) -> [f64; 3] {
    // Where it depends on calls in flight, it is taken for long.
    let wait = bucket.predicted.unwrap_or(Duration::from_secs(3_600)).as_secs_f64();
    let fullest = bucket.quotas.iter().map(used_share).fold(0.0, f64::max);
    [f64::from(u8::from(bucket.paused_until.is_some())), wait, fullest]
}
