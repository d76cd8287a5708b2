//! A gRPC service, as code generated from its `.proto` would be: no protoc is needed to build this.
//! Its messages are plain text.

use bytes::{Buf, BufMut};
use http::uri::PathAndQuery;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    client::{Grpc, GrpcService},
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};
use tower_throttle::BoxError;

/// What the methods of the service are called by.
pub const ANSWER: &str = "/chat.Chat/Answer";
/// Asks a question that is answered in pieces.
pub const STREAM: &str = "/chat.Chat/Stream";

/// A client of the service.
#[derive(Debug)]
pub struct Client<T> {
    grpc: Grpc<T>,
}

impl<T> Client<T>
where
    T: GrpcService<Body>,
    T::ResponseBody: http_body::Body<Data = bytes::Bytes, Error: Into<BoxError>> + Send + 'static,
{
    /// A client that sends through a channel, or what is around one.
    pub fn new(channel: T) -> Self {
        Self { grpc: Grpc::new(channel) }
    }

    /// Asks for an answer.
    ///
    /// # Errors
    /// The service's, the connection's or the throttle's.
    pub async fn answer(&mut self, question: Request<String>) -> Result<Response<String>, Status> {
        self.ready().await?;
        self.grpc.unary(question, PathAndQuery::from_static(ANSWER), Text).await
    }

    /// Asks for an answer in pieces.
    ///
    /// # Errors
    /// The service's, the connection's or the throttle's.
    pub async fn stream(
        &mut self,
        question: Request<String>,
    ) -> Result<Response<Streaming<String>>, Status> {
        self.ready().await?;
        self.grpc.server_streaming(question, PathAndQuery::from_static(STREAM), Text).await
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.grpc.ready().await.map_err(|error| Status::from_error(error.into()))
    }
}

/// Messages are plain text.
#[derive(Clone, Copy, Debug)]
struct Text;

impl Codec for Text {
    type Encode = String;
    type Decode = String;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Text {
    type Item = String;
    type Error = Status;

    fn encode(&mut self, text: String, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(text.as_bytes());
        Ok(())
    }
}

impl Decoder for Text {
    type Item = String;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<String>, Status> {
        let text = buffer.copy_to_bytes(buffer.remaining());
        let text = String::from_utf8(text.to_vec());
        text.map(Some).map_err(|_| Status::internal("the message is no text"))
    }
}
