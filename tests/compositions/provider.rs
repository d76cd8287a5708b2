//! A provider on the loopback that writes what it is told to, byte by byte, and hangs up after each
//! answer.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Notify,
};

/// What the text of an answer ends with.
pub(crate) const TEXT: &str = "some text, used: 8";
pub(crate) const BIG: usize = 10 << 20;
const GZIP: &[u8] =
    b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\x2b\xce\xcf\x4d\x55\x28\x49\xad\x28\xd1\x51\x28\x2d\x4e\
    \x4d\xb1\x52\xb0\x00\x00\x9d\xc2\x02\xd3\x12\x00\x00\x00";

#[derive(Clone, Debug)]
pub(crate) struct Provider {
    address: SocketAddr,
    signals: Arc<Signals>,
}

#[derive(Debug, Default)]
struct Signals {
    hits: AtomicUsize,
    go_on: Notify,
    hung_up: Notify,
}

impl Provider {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let signals = Arc::<Signals>::default();
        let provider = Self { address, signals: signals.clone() };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let signals = signals.clone();
                // A client that hangs up is none of the provider's trouble.
                tokio::spawn(async move { serve(stream, &signals).await.ok() });
            }
        });
        provider
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Requests so far.
    pub(crate) fn hits(&self) -> usize {
        self.signals.hits.load(Ordering::Relaxed)
    }

    /// Lets `/reset` break off.
    pub(crate) fn go_on(&self) {
        self.signals.go_on.notify_one();
    }

    /// Waits until the reader of `/endless` has hung up.
    pub(crate) async fn hung_up(&self) {
        self.signals.hung_up.notified().await;
    }
}

/// A port without a listener, kept from others.
#[derive(Debug)]
pub(crate) struct Nowhere {
    bound: TcpSocket,
}

impl Nowhere {
    pub(crate) fn new() -> Self {
        let bound = TcpSocket::new_v4().expect("a socket");
        bound.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
        Self { bound }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.bound.local_addr().expect("it is bound"))
    }
}

async fn serve(mut stream: TcpStream, signals: &Signals) -> std::io::Result<()> {
    let Some((method, path)) = read(&mut stream).await? else { return Ok(()) };
    let hit = signals.hits.fetch_add(1, Ordering::Relaxed);
    if path == "/nothing" {
        return Ok(());
    }
    if path == "/silent-once" && hit == 0 {
        // Until the client hangs up.
        while stream.read(&mut [0; 64]).await? > 0 {}
        return Ok(());
    }
    let (head, mut body) = answer(&path, hit);
    if method == "HEAD" {
        body.clear();
    }
    stream.write_all(format!("HTTP/1.1 {head}\r\nconnection: close\r\n\r\n").as_bytes()).await?;
    stream.write_all(&body).await?;
    stream.flush().await?;
    match path.as_str() {
        "/reset" => {
            signals.go_on.notified().await;
            stream.set_zero_linger()?;
        }
        "/endless" => {
            // Nothing more is sent, so only the end can be read.
            while stream.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {}
            signals.hung_up.notify_one();
        }
        _ => stream.shutdown().await?,
    }
    Ok(())
}

/// Reads one request to its end: its method and path.
async fn read(stream: &mut TcpStream) -> std::io::Result<Option<(String, String)>> {
    let mut received = Vec::new();
    let head = loop {
        if let Some(end) = received.windows(4).position(|end| end == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut received).await? == 0 {
            return Ok(None);
        }
    };
    let text = String::from_utf8_lossy(&received[..head]).to_lowercase();
    while text.contains("transfer-encoding: chunked") && !received.ends_with(b"0\r\n\r\n") {
        if stream.read_buf(&mut received).await? == 0 {
            return Ok(None);
        }
    }
    let length =
        text.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
    while received.len() < head + length.unwrap_or(0) {
        if stream.read_buf(&mut received).await? == 0 {
            return Ok(None);
        }
    }
    let line =
        String::from_utf8_lossy(&received[..head]).lines().next().unwrap_or_default().to_owned();
    let mut words = line.split(' ').map(str::to_owned);
    Ok(words.next().zip(words.next()))
}

fn answer(path: &str, hit: usize) -> (String, Vec<u8>) {
    let sized = |status: &str, body: &[u8]| {
        (format!("{status}\r\ncontent-length: {}", body.len()), body.to_vec())
    };
    let chunked = "200 OK\r\ntransfer-encoding: chunked";
    match path {
        "/empty" => ("204 No Content".into(), Vec::new()),
        "/not-modified" => ("304 Not Modified\r\netag: \"1\"".into(), Vec::new()),
        "/redirect" => {
            ("302 Found\r\nlocation: /answer?again\r\ncontent-length: 0".into(), Vec::new())
        }
        "/chunked" => (chunked.into(), b"b\r\nsome text, \r\n7\r\nused: 8\r\n0\r\n\r\n".to_vec()),
        "/untold" => (chunked.into(), b"b\r\nsome text, \r\n0\r\n\r\n".to_vec()),
        "/endless" => (chunked.into(), b"b\r\nsome text, \r\n".to_vec()),
        "/trailers" => {
            let body = b"9\r\nsome text\r\n0\r\nx-used: 8\r\n\r\n";
            (format!("{chunked}\r\ntrailer: x-used"), body.to_vec())
        }
        "/until-the-end" => ("200 OK".into(), TEXT.into()),
        "/big" => {
            let mut body = vec![b'x'; BIG - TEXT.len()];
            body.extend_from_slice(TEXT.as_bytes());
            sized("200 OK", &body)
        }
        "/gzip" => sized("200 OK\r\ncontent-encoding: gzip", GZIP),
        "/short" | "/reset" => ("200 OK\r\ncontent-length: 1000".into(), TEXT.into()),
        "/429" => sized("429 Too Many Requests\r\nretry-after: 1", b"slow down"),
        "/404" => sized("404 Not Found", b"no"),
        "/500" => sized("500 Internal Server Error", b"oops"),
        // Refuses once, then answers.
        "/second-time" if hit == 0 => {
            sized("429 Too Many Requests\r\nretry-after: 1", b"slow down")
        }
        // Fails twice, then answers.
        "/third-time" if hit < 2 => sized("500 Internal Server Error", b"oops"),
        _ => sized("200 OK", TEXT.as_bytes()),
    }
}
