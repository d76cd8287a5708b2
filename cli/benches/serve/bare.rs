//! A proxy of hyper alone: it hands everything on and knows nothing of it.

use hyper::{Request, Uri, body::Incoming, header::HOST, server::conn::http1, service::service_fn};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use tokio::net::TcpListener;

/// Tells a process of this program that it is the proxy, and before which upstream.
pub(crate) const UPSTREAM: &str = "BARE_PROXY_UPSTREAM";

/// Serves until the process is ended.
pub(crate) async fn serve(upstream: &str) {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Client<_, Incoming> = Client::builder(TokioExecutor::new()).build(connector);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    println!("http://{}", listener.local_addr().expect("an address"));
    loop {
        let (connection, _) = listener.accept().await.expect("a connection");
        connection.set_nodelay(true).expect("an option");
        let (client, upstream) = (client.clone(), upstream.to_owned());
        let service = service_fn(move |mut request: Request<Incoming>| {
            let uri = format!("{upstream}{}", request.uri());
            *request.uri_mut() = Uri::try_from(uri).expect("an address");
            request.headers_mut().remove(HOST);
            client.request(request)
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(connection), service));
    }
}
