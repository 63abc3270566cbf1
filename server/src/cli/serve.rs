//! `waxwing serve`: bind, load, warm up, serve, drain.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::ArgMatches;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Outcome, settings};
use waxwing_model::Model;
use waxwing_model::device::Device;
use waxwing_model::transcript::Decoding;

use crate::app::App;
use crate::auth::{Access, Secret};
use crate::config::Config;
use crate::engine::{Engine, EngineOptions};
use crate::metrics::Metrics;
use crate::routes::router;
use crate::session::parameters::ModelNames;
use crate::{catalog, device, logging, server};

/// What is kept of the drain for closing connections after the last session.
const CLOSING: Duration = Duration::from_secs(2);

pub(super) fn run(matches: &ArgMatches) -> Outcome {
    let mut config = settings::read(matches)?;
    logging::start(&config.log, config.log_json);
    let device = device::resolve(config.device)?;
    let made_key = make_key(&mut config)?;
    let json = matches.get_flag("json");
    let runtime = runtime()?;
    let result = runtime.block_on(serve(&config, device, made_key.as_ref(), json));
    // Threads that still decode a file must not hold the exit.
    runtime.shutdown_background();
    Ok(result?)
}

/// The runtime of the socket tasks; all computing happens elsewhere.
pub(super) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let threads = std::thread::available_parallelism()
        .map_or(1, std::num::NonZero::get)
        .clamp(1, 4);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("waxwing-io")
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

/// Other machines need a key; one is made when there is none and nobody said that none is wanted.
fn make_key(config: &mut Config) -> anyhow::Result<Option<Secret>> {
    if config.host.is_loopback() || config.insecure || !config.keys.is_empty() {
        return Ok(None);
    }
    let key = Secret::random().context("the system has no randomness for a key")?;
    config.keys.push(key.clone());
    Ok(Some(key))
}

/// As [`engine_options`], searching for words as the first of these models does where the settings do not say.
pub(super) fn engine_options_for(config: &Config, device: &Device, models: &[Arc<Model>]) -> EngineOptions {
    let mut options = engine_options(config, device);
    if let Some(model) = models.first() {
        options.decoding = config.decoding.over(model.default_decoding());
    }
    options
}

/// Sessions that warm-up steps on a GPU at most, all workers' together: as many as are served by default, so that there is room for them.
const DEVICE_SESSIONS: usize = 1024;
/// Workers that step on a GPU or prepare to: while one has its turn there, others make features. With more, batches would be small.
const DEVICE_STEPS: usize = 3;

pub(super) fn engine_options(config: &Config, device: &Device) -> EngineOptions {
    let mut options = EngineOptions {
        backlog: config.backlog,
        file_slots: config.limits.files,
        whole_limit: config.limits.whole_audio,
        ..EngineOptions::default()
    };
    if config.threads > 0 {
        options.workers = config.threads;
    }
    if !device.is_cpu() {
        options.largest_batch = (DEVICE_SESSIONS / options.workers).max(options.largest_batch);
        options.steps_at_once = DEVICE_STEPS;
    }
    // Where workers leave a processor free the sockets have it.
    let all = EngineOptions::default().workers;
    options.counts_sockets = device.is_cpu() && options.workers >= all;
    options.slots = (config.slots > 0).then_some(config.slots);
    options.decoding = config.decoding.over(Decoding::default());
    options
}

async fn serve(config: &Config, device: Device, made_key: Option<&Secret>, json: bool) -> anyhow::Result<()> {
    // Bound first: a taken port should not cost the time to load a model.
    let listener = server::bind(SocketAddr::new(config.host, config.port))?;
    let address = listener.local_addr().context("the listener has no address")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to signals")?;
    let app = Arc::new(start(config, device.clone()).await?);
    announce(config, &device, &app, address, made_key, json)?;
    let closing = CancellationToken::new();
    let serving = tokio::spawn(server::run(
        listener,
        router(Arc::clone(&app)),
        config.limits.connections,
        closing.clone(),
    ));
    let mut signalled = async || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tokio::select! {
        () = signalled() => {}
        () = app.engine.failed() => anyhow::bail!("the engine cannot go on; the log says why"),
    }
    tokio::select! {
        () = drain(&app, config.limits.drain, closing, serving) => Ok(()),
        () = signalled() => {
            tracing::warn!("a second signal: leaving at once");
            Ok(())
        }
    }
}

/// Loads the models and warms the engine up.
async fn start(config: &Config, device: Device) -> anyhow::Result<App> {
    let config_of_engine = config.clone();
    let metrics = Metrics::install()?;
    let (engine, models) = tokio::task::spawn_blocking(move || {
        let config = config_of_engine;
        let models = catalog::load_in(&config.models, &device, config.precision)?;
        let options = engine_options_for(&config, &device, &models);
        let engine = Engine::start(catalog::steppable(&models), options)?;
        anyhow::Ok((engine, models))
    })
    .await
    .context("loading the models was interrupted")??;
    Ok(App {
        engine,
        languages: models
            .iter()
            .map(|model| model.config().language.clone().unwrap_or_default())
            .collect(),
        latencies: models.iter().map(|model| catalog::latency(model)).collect(),
        models: ModelNames(models.iter().map(|model| model.id().to_string()).collect()),
        access: Access::new(
            config.host,
            &config.keys,
            config.hosts.clone(),
            config.origins.clone(),
        ),
        decoding: config.decoding,
        uploads: Arc::new(Semaphore::new(config.limits.files)),
        limits: config.limits.clone(),
        metrics,
        draining: CancellationToken::new(),
        tasks: TaskTracker::new(),
    })
}

/// Readiness falls, sessions say their last words, connections close; all within the time given.
async fn drain(
    app: &App,
    within: Duration,
    closing: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
) {
    let end = Instant::now() + within;
    tracing::info!(open = app.tasks.len(), "stopping: sessions get their last words");
    app.draining.cancel();
    app.tasks.close();
    if timeout_at(end - CLOSING.min(within / 2), app.tasks.wait())
        .await
        .is_err()
    {
        tracing::warn!(open = app.tasks.len(), "sessions did not finish in time");
        app.engine.drain();
    }
    closing.cancel();
    if timeout_at(end, serving).await.is_err() {
        tracing::warn!("connections did not close in time");
    }
}

fn announce(
    config: &Config,
    device: &Device,
    app: &App,
    address: SocketAddr,
    made_key: Option<&Secret>,
    json: bool,
) -> anyhow::Result<()> {
    let host = if config.host.is_unspecified() {
        "localhost".to_string()
    } else {
        SocketAddr::new(config.host, 0)
            .to_string()
            .trim_end_matches(":0")
            .to_string()
    };
    let fragment = made_key
        .map(|key| format!("/#key={}", key.reveal()))
        .unwrap_or_default();
    let url = format!("http://{host}:{}{fragment}", address.port());
    let readiness = app.readiness();
    let mut out = std::io::stdout().lock();
    if json {
        let facts = serde_json::json!({
            "url": url, "host": address.ip(), "port": address.port(), "models": app.models.0, "slots": readiness.slots,
            "workers": engine_options(config, device).workers, "needs_key": app.access.needs_key(), "version": env!("CARGO_PKG_VERSION"),
        });
        writeln!(out, "{facts}")?;
    } else {
        let key = match (made_key, app.access.needs_key()) {
            (Some(_), _) => "made for this run, in the URL above; set your own with WAXWING_KEYS",
            (None, true) => "needed, as set",
            (None, false) if config.host.is_loopback() => "not needed: only this machine can connect",
            (None, false) => "NOT needed, although other machines can connect (--insecure)",
        };
        let limits = &config.limits;
        writeln!(
            out,
            "Waxwing {version} listens on {url}\n  model   {models}\n  slots   {slots} live sessions in real time, {workers} workers\n  \
             limits  {idle} s idle, {session} s a session, {body} MB an upload, {files} files at once\n  key     {key}",
            version = env!("CARGO_PKG_VERSION"),
            models = app.models.0.join(", "),
            slots = readiness.slots,
            workers = engine_options(config, device).workers,
            idle = limits.idle.as_secs(),
            session = limits.session.as_secs(),
            body = limits.body_bytes / (1024 * 1024),
            files = limits.files,
        )?;
    }
    Ok(out.flush()?)
}
