//! `muse-bench`: tokens a second of a model on this machine, beside what its memory can give.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{CommandFactory, Parser, error::ErrorKind};
use muse_benches::measure::{self, Lengths, Row};
use muse_benches::{probe::Probe, shapes, synthetic};
use muse_format::{Layout, Spec, WriteError};
use muse_kernels::BackendError;
use muse_runtime::{BackendChoice, LoadError, LoadOptions, Mapped, Plan, load_mapped};
use serde::Serialize;

const EXAMPLES: &str = "\
Examples:
  muse-bench SmolLM2-135M.muse
  muse-bench SmolLM2-135M.muse -p 512 -n 128 -t 1,2,4 --json
  muse-bench --synthetic qwen3-4b --bits 4 --group 32 -t 4
  muse-bench --synthetic llama3.1-8b --bits 4 --plan

Prompt and answer are measured apart, each from an empty cache. Figures are medians over the rounds;
\"of probe\" is the share of the memory bandwidth that decoding reaches.";

/// Measures how fast a model reads a prompt and writes an answer.
#[derive(Parser)]
#[command(name = "muse-bench", version, after_help = EXAMPLES)]
struct Arguments {
    /// A .muse file
    #[arg(required_unless_present = "synthetic", conflicts_with = "synthetic")]
    file: Option<PathBuf>,
    /// Measure random weights in the shape of a published model
    #[arg(long, value_name = "SHAPE", value_parser = shapes::SHAPES.iter().map(|s| s.name).collect::<Vec<_>>())]
    synthetic: Option<String>,
    /// Bits a weight of --synthetic: 4, 8, 16 or 32
    #[arg(long, default_value_t = 4, value_parser = listed(["4", "8", "16", "32"]))]
    bits: u16,
    /// Weights that share a scale, with 4 and 8 bits: 32, 64 or 128
    #[arg(long, default_value_t = 32, value_parser = listed(["32", "64", "128"]))]
    group: u16,
    /// Where the file of --synthetic goes while it is measured [default: the temporary folder]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Tokens of the prompt; 0 measures none
    #[arg(short = 'p', long, default_value_t = 512, value_name = "TOKENS")]
    prompt: u32,
    /// Tokens of the answer; 0 measures none
    #[arg(short = 'n', long, default_value_t = 128, value_name = "TOKENS")]
    answer: u32,
    /// Thread counts, one row each [default: one thread, then all cores]
    #[arg(short, long, value_delimiter = ',', value_name = "N,N")]
    threads: Vec<usize>,
    /// Most prompt tokens of one step
    #[arg(short, long, default_value_t = 512, value_name = "TOKENS")]
    batch: u32,
    /// Counted rounds, after one that is not
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Run the reference backend, which is slow and exact
    #[arg(long)]
    reference: bool,
    /// Print the memory that it would take and measure nothing
    #[arg(long)]
    plan: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Takes one of `values`.
fn listed<const N: usize>(values: [&'static str; N]) -> impl TypedValueParser<Value = u16> {
    PossibleValuesParser::new(values).map(|value| value.parse().expect("listed values are numbers"))
}

/// Everything that a run prints.
#[derive(Serialize)]
struct Report {
    model: String,
    /// Layouts of the matrices.
    layouts: Vec<String>,
    weight_bytes: u64,
    working_bytes: u64,
    backend: String,
    prompt_tokens: u32,
    answer_tokens: u32,
    rounds: u32,
    rows: Vec<Row>,
}

#[derive(Debug, thiserror::Error)]
enum BenchError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Step(#[from] BackendError),
    #[error("the random model could not be written: {0}")]
    Write(#[from] WriteError),
    #[error("no memory for the bandwidth probe: {0}")]
    Probe(std::io::Error),
    #[error("no temporary folder: {0}")]
    Folder(std::io::Error),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.prompt == 0 && arguments.answer == 0 && !arguments.plan {
        let problem = "-p 0 -n 0 leaves nothing to measure";
        Arguments::command().error(ErrorKind::ValueValidation, problem).exit();
    }
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("muse-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), BenchError> {
    let shape = arguments.synthetic.as_deref().and_then(shapes::find);
    let Some(shape) = shape else {
        let file = arguments.file.as_deref().expect("clap asks for one of the two");
        let mapped = Mapped::open(file)?;
        return if arguments.plan {
            print_plan(arguments, &muse_runtime::plan(&mapped, &options(arguments, None))?);
            Ok(())
        } else {
            bench(arguments, &mapped)
        };
    };
    let (spec, layout) = (shape.spec(), layout(arguments.bits, arguments.group));
    if arguments.plan {
        let plan = Plan::new(&spec, weight_bytes(&spec, layout), [layout], &options(arguments, None))?;
        print_plan(arguments, &plan);
        return Ok(());
    }
    let folder = match &arguments.dir {
        Some(dir) => tempfile::TempDir::new_in(dir),
        None => tempfile::TempDir::new(),
    };
    let folder = folder.map_err(BenchError::Folder)?;
    let path = folder.path().join("random.muse");
    synthetic::write(&path, &spec, layout)?;
    bench(arguments, &Mapped::open(&path)?)
}

fn layout(bits: u16, group: u16) -> Layout {
    match bits {
        4 => Layout::Q4 { group },
        8 => Layout::Q8 { group },
        16 => Layout::F16,
        _ => Layout::F32,
    }
}

/// Bytes of the tensors that [`synthetic::write`] writes.
fn weight_bytes(spec: &Spec, layout: Layout) -> u64 {
    let bytes = |tensor: &muse_format::Expected| {
        let layout = if tensor.role == muse_format::Role::Vector { Layout::F32 } else { layout };
        layout.byte_len(tensor.rows, tensor.cols).unwrap_or(u64::MAX)
    };
    spec.tensors().iter().map(bytes).sum()
}

fn options(arguments: &Arguments, threads: Option<usize>) -> LoadOptions {
    LoadOptions {
        context: Some(arguments.prompt.max(arguments.answer).max(1)),
        batch_tokens: arguments.batch.min(arguments.prompt.max(1)),
        threads,
        backend: if arguments.reference { BackendChoice::Reference } else { BackendChoice::Cpu },
        ..LoadOptions::default()
    }
}

fn print_plan(arguments: &Arguments, plan: &Plan) {
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(plan).expect("a plan is plain numbers and text"));
    } else {
        println!("{plan}");
    }
}

fn bench(arguments: &Arguments, mapped: &Mapped) -> Result<(), BenchError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = match arguments.threads.as_slice() {
        [] if cores > 1 => vec![1, cores],
        [] => vec![1],
        given => given.to_vec(),
    };
    let lengths = Lengths { prompt: arguments.prompt, answer: arguments.answer, rounds: arguments.rounds };
    let plan = muse_runtime::plan(mapped, &options(arguments, None))?;
    let bytes_per_token = measure::bytes_per_token(mapped, &plan, arguments.answer);
    let probe = Probe::new().map_err(BenchError::Probe)?;
    let (mut rows, mut backend) = (Vec::new(), String::new());
    for threads in threads {
        let options = options(arguments, Some(threads));
        let mut engine = load_mapped(mapped, &options, measure::no_text())?;
        let probe_gb_per_s = probe.read(threads, 3) / 1e9;
        let (prefill, decode) = measure::tokens_per_second(&mut *engine, lengths)?;
        backend.clone_from(&engine.info().backend);
        rows.push(Row {
            threads,
            prefill_tok_per_s: prefill,
            decode_tok_per_s: decode,
            bytes_per_token,
            decode_gb_per_s: decode.map(|rate| rate * bytes_per_token as f64 / 1e9),
            probe_gb_per_s,
        });
    }
    let report = Report {
        model: mapped.spec.family.clone(),
        layouts: layouts(mapped),
        weight_bytes: mapped.weight_bytes(),
        working_bytes: plan.working_bytes,
        backend,
        prompt_tokens: arguments.prompt,
        answer_tokens: arguments.answer,
        rounds: arguments.rounds,
        rows,
    };
    print_report(arguments, &report);
    Ok(())
}

/// Layouts of the matrices, each once.
fn layouts(mapped: &Mapped) -> Vec<String> {
    let tensors = mapped.spec.tensors();
    let matrices = tensors.iter().filter(|tensor| tensor.role != muse_format::Role::Vector);
    let mut layouts: Vec<_> = matrices.filter_map(|t| Some(mapped.stored(&t.name)?.0)).collect();
    layouts.sort_unstable();
    layouts.dedup();
    layouts.iter().map(Layout::to_string).collect()
}

fn print_report(arguments: &Arguments, report: &Report) {
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(report).expect("a report is plain numbers and text"));
        return;
    }
    let mib = report.weight_bytes as f64 / f64::from(1 << 20);
    println!("{} {}, {mib:.1} MiB of weights, {}", report.model, report.layouts.join("+"), report.backend);
    println!(
        "{:>7} {:>14} {:>13} {:>9} {:>11} {:>10} {:>9}",
        "threads", "prefill tok/s", "decode tok/s", "MB/token", "decode GB/s", "probe GB/s", "of probe"
    );
    for row in &report.rows {
        let number = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.1}"));
        let share = row.decode_gb_per_s.map(|rate| 100.0 * rate / row.probe_gb_per_s);
        println!(
            "{:>7} {:>14} {:>13} {:>9.1} {:>11} {:>10.1} {:>8}%",
            row.threads,
            number(row.prefill_tok_per_s),
            number(row.decode_tok_per_s),
            row.bytes_per_token as f64 / 1e6,
            number(row.decode_gb_per_s),
            row.probe_gb_per_s,
            share.map_or("-".into(), |share| format!("{share:.0}")),
        );
    }
}
