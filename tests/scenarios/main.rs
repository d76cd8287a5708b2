//! The black-box scenarios, by number, each on every store.

mod arithmetic;
mod life;
mod several;
mod sliding;
mod waiting;
mod world;
