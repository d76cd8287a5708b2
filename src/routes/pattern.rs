//! The text of routes: patterns of requests, and names of buckets with parameters in them.

use std::mem;

use http::Method;

use super::target::{canonical, split_port};

/// What a route matches, as it is written.
#[derive(Clone, Debug)]
pub(super) struct RoutePattern {
    pub(super) method: Option<Method>,
    pub(super) host: Option<String>,
    pub(super) port: Option<u16>,
    /// Alternatives.
    pub(super) paths: Vec<String>,
}

impl RoutePattern {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (method, place) = match text.split_once(' ') {
            Some((method, place)) => (Some(parse_method(method)?), place),
            None => (None, text),
        };
        let (host, paths) = match place.find('/') {
            Some(slash) => (&place[..slash], vec![parse_path(&place[slash..])?]),
            None => (place, vec!["/".into(), "/{*rest}".into()]),
        };
        if host.is_empty() {
            return match place.is_empty() {
                true => Err("it has neither host nor path".into()),
                false => Ok(Self { method, host: None, port: None, paths }),
            };
        }
        let (name, port) = split_port(host);
        let name = name.strip_suffix('.').unwrap_or(name);
        let is_host = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        let is_address = |text: &str| {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_hexdigit() || ":.".contains(c))
        };
        let bracketed = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if !(bracketed.is_some_and(is_address) || !name.is_empty() && name.chars().all(is_host)) {
            return Err(format!(
                "`{host}` is no host; a pattern is `METHOD host:port/path`, without a scheme"
            ));
        }
        Ok(Self { method, host: Some(name.to_ascii_lowercase()), port, paths })
    }

    /// The names of the parameters.
    pub(super) fn parameters(&self) -> Vec<String> {
        let pieces = self.paths.iter().filter_map(|path| pieces(path).ok()).flatten();
        let names = pieces.filter_map(|piece| match piece {
            Piece::Parameter(name) => Some(name.trim_start_matches('*').to_owned()),
            Piece::Text(_) => None,
        });
        names.collect()
    }
}

fn parse_method(text: &str) -> Result<Method, String> {
    match Method::from_bytes(text.as_bytes()) {
        Ok(method) if !text.contains(|c: char| c.is_ascii_lowercase()) => Ok(method),
        _ => Err(format!("`{text}` is no method; they are written in capitals")),
    }
}

fn parse_path(text: &str) -> Result<String, String> {
    let wrong = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '?' | '#');
    if text.contains(wrong) {
        return Err("its path has a space, or a query".into());
    }
    pieces(text)?;
    Ok(canonical(text).into_owned())
}

/// A part of a text with parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Text(String),
    Parameter(String),
}

/// Takes a text with parameters apart: `{name}` is one, `{{` and `}}` are braces.
pub(super) fn pieces(text: &str) -> Result<Vec<Piece>, String> {
    let (mut pieces, mut plain) = (Vec::new(), String::new());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '{' | '}' if rest.next_if_eq(&c).is_some() => plain.push(c),
            '{' => {
                let mut name = String::new();
                loop {
                    match rest.next() {
                        Some('}') => break,
                        Some(c) if c != '{' => name.push(c),
                        _ => {
                            return Err(format!(
                                "a brace is not closed in `{text}`; `{{{{` stands for one"
                            ));
                        }
                    }
                }
                if name.trim_start_matches('*').is_empty() {
                    return Err(format!("a parameter in `{text}` has no name"));
                }
                if !plain.is_empty() {
                    pieces.push(Piece::Text(mem::take(&mut plain)));
                }
                pieces.push(Piece::Parameter(name));
            }
            '}' => {
                return Err(format!("a brace was not opened in `{text}`; `}}}}` stands for one"));
            }
            c => plain.push(c),
        }
    }
    if !plain.is_empty() {
        pieces.push(Piece::Text(plain));
    }
    Ok(pieces)
}
