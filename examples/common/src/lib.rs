//! What the examples share: a provider on loopback, what an OpenAI-like one's requests and answers
//! tell, and a meter that adds up what was reserved, waited for and refunded.

pub mod meter;
pub mod openai;
pub mod provider;
