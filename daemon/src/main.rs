//! `mused`: wiring.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use muse_boards::Board;
use muse_daemon::args::{Args, CONFIG};
use muse_daemon::config::Config;
use muse_daemon::folder::{self, Folder};
use muse_daemon::service::Service;
use muse_daemon::{BUS_NAME, affinity, bus, clients, idle, log, notify};
use muse_runtime::{LoadOptions, Scheduler, SchedulerOptions};
use tokio::signal::unix::{SignalKind, signal};
use zbus::fdo::RequestNameFlags;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How long streams may take to hand over their last frames at the end.
const GRACE: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    let args = Args::parse();
    log::start();
    match serve(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn serve(args: &Args) -> Result<(), Failure> {
    let mut config = match &args.config {
        Some(path) => Config::read(path)?,
        None if Path::new(CONFIG).exists() => Config::read(Path::new(CONFIG))?,
        None => Config::default(),
    };
    if let Some(models) = &args.models {
        config.models_dir = models.clone();
    }
    if args.check {
        return Ok(());
    }
    let board = muse_boards::detect(Path::new("/"));
    let options = load_options(&config, board.default_threads(Path::new("/")));
    // Before any other thread starts.
    affinity::prefer(&board.fast_cores(Path::new("/")), options.threads.unwrap_or(1));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let ended = runtime.block_on(run(args, config, board, options));
    // A text that is still read is nobody's.
    runtime.shutdown_background();
    ended
}

async fn run(args: &Args, config: Config, board: &Board, options: LoadOptions) -> Result<(), Failure> {
    let free = || muse_runtime::available_bytes(config.engine.backend, Path::new("/"));
    let available = || free().map(|free| board.budget_bytes(free));
    let budget = config.memory.budget_mib.map(|mib| mib << 20).or_else(available);
    let source = Folder { path: config.models_dir.clone(), options, drafters: config.drafters.clone() };
    let scheduler = Scheduler::start(SchedulerOptions {
        sessions_max: u32::try_from(config.limits.sessions)?,
        queue_max: u32::try_from(config.limits.queue)?,
    });
    let service = Service::new(config, Arc::new(source), scheduler, budget);
    service.models.refresh().await;

    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let builder = match args.session {
        true => zbus::connection::Builder::session(),
        false => zbus::connection::Builder::system(),
    };
    let connection = builder.build().await.map_err(|e| no_bus(args.session, &e))?;
    let published = bus::publish(&connection, &service).await?;
    let watcher = clients::watcher(&connection).await?;
    let folder = service.config.models_dir.clone();
    tracing::info!(board = board.name, budget_bytes = budget, models = %folder.display(), "starting");
    let ended = tokio::select! {
        ended = watcher.follow(&connection, &service) => ended.map_err(Failure::from),
        ended = published.follow(&connection, &service) => ended.map_err(Failure::from),
        ended = serve_name(&connection, &service) => ended,
        () = folder::watch(&folder, &service) => Ok(()),
        () = idle::watch(&service) => Ok(()),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        () = connection.closed() => Err("the bus closed the connection".into()),
    };
    notify::stopping();
    service.stop(GRACE).await;
    // Calls that waited for an answer get their error; then the name is free for the next mused.
    let _ = tokio::time::timeout(GRACE, connection.graceful_shutdown()).await;
    ended
}

/// Takes the name once everything else is in place, then keeps systemd informed.
async fn serve_name(connection: &zbus::Connection, service: &Arc<Service>) -> Result<(), Failure> {
    // Neither waits in line behind another mused nor lets another program take the name away.
    let flags = RequestNameFlags::DO_NOT_QUEUE;
    connection.request_name_with_flags(BUS_NAME, flags).await.map_err(|problem| {
        format!(
            "cannot own {BUS_NAME}: {problem}; is another mused running, or the bus policy not installed?"
        )
    })?;
    tracing::info!("serving {BUS_NAME}");
    notify::watch(service).await;
    Ok(())
}

fn load_options(config: &Config, threads: usize) -> LoadOptions {
    let small = |value: u64| u32::try_from(value).expect("the configuration bounds it");
    let engine = &config.engine;
    LoadOptions {
        context: engine.context.map(small),
        slots: small(engine.slots),
        batch_tokens: small(engine.batch_tokens),
        image_tokens: engine.image_tokens.map(small),
        audio_tokens: engine.audio_tokens.map(small),
        logit_rows: (!engine.speculation).then(|| small(engine.slots)),
        cache: engine.cache,
        threads: Some(engine.threads.map_or(threads, |threads| small(threads) as usize)),
        weights: engine.weights,
        expert_memory: config.memory.experts_mib.map(|mib| mib << 20),
        backend: engine.backend,
        cpu_fallback: engine.cpu_fallback,
        ..LoadOptions::default()
    }
}

fn no_bus(session: bool, problem: &zbus::Error) -> Failure {
    let remedy = match session {
        true => "run inside a login session, or under dbus-run-session",
        false => "is dbus running? For your own session bus, add --session",
    };
    format!("cannot reach the bus: {problem}; {remedy}").into()
}
