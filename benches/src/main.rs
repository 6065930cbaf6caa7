//! `muse-bench`: tokens a second of a model on this machine, beside what its memory can give.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{CommandFactory, Parser, ValueEnum, error::ErrorKind};
#[cfg(feature = "cuda")]
use muse_benches::device::DeviceProbe;
use muse_benches::measure::{self, Ceiling, Lengths, Rates};
use muse_benches::neighbour::Neighbour;
use muse_benches::report::{BenchError, Report, Row};
use muse_benches::{cold, probe::Probe, shapes, speculation, synthetic};
use muse_format::{Layout, Role, Spec};
use muse_runtime::{
    BackendChoice, CacheDtype, LoadOptions, Mapped, Placement, Plan, WeightBytes, load_mapped, open, place,
    random,
};

const EXAMPLES: &str = "\
Examples:
  muse-bench SmolLM2-135M.muse
  muse-bench SmolLM2-135M.muse -p 512 -n 128 -t 1,2,4 --json
  muse-bench --synthetic qwen3-4b --bits 4 --group 32 -t 4
  muse-bench --synthetic qwen3-0.6b --scheme codebook
  muse-bench --synthetic llama3.1-8b --bits 4 --plan
  muse-bench --synthetic muse-glimmer-30b --layers 8
  muse-bench SmolLM2-135M.muse -p 512 -n 32 -d 4096      # with 4096 tokens in the cache before
  muse-bench SmolLM2-135M.muse -p 0 --parallel 1,4       # four sessions in one step
  muse-bench SmolLM2-135M.muse -t 2 --neighbour --cold-start
  muse-bench SmolLM2-135M.muse --speculation --rounds 3
  muse-bench muse-glimmer.muse --drafter muse-glimmer-assistant.muse --speculation
  muse-bench --synthetic qwen3-30b --layers 12 --memory 2500 -p 0 -n 16  # most experts stay on the disk

Prompt and answer are measured apart, each after the same --depth. Figures are medians over the rounds; decoding
of several sessions is their sum. \"of probe\" is the share of the memory bandwidth that decoding reaches.";

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
    /// Only the last layers of --synthetic, where the whole does not fit this machine
    #[arg(long, value_name = "COUNT", requires = "synthetic", value_parser = clap::value_parser!(u32).range(1..))]
    layers: Option<u32>,
    /// Bits a weight of --synthetic: 4, 8, 16 or 32
    #[arg(long, default_value_t = 4, value_parser = listed(["4", "8", "16", "32"]))]
    bits: u16,
    /// Weights that share a scale, with 4 and 8 bits: 32, 64 or 128
    #[arg(long, default_value_t = 32, value_parser = listed(["32", "64", "128"]))]
    group: u16,
    /// How 4 bits stand for a weight of --synthetic
    #[arg(long, value_enum, default_value = "symmetric")]
    scheme: Scheme,
    /// Where the file of --synthetic goes while it is measured [default: the temporary folder]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Tokens of the prompt; 0 measures none
    #[arg(short = 'p', long, default_value_t = 512, value_name = "TOKENS")]
    prompt: u32,
    /// Tokens of the answer; 0 measures none
    #[arg(short = 'n', long, default_value_t = 128, value_name = "TOKENS")]
    answer: u32,
    /// Tokens in the cache before prompt and answer
    #[arg(short, long, default_value_t = 0, value_name = "TOKENS")]
    depth: u32,
    /// Sessions that decode in one step, one row each; a prompt is read by one
    #[arg(long, value_delimiter = ',', value_name = "N,N", default_value = "1",
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    parallel: Vec<u32>,
    /// Repeat every row beside a thread that keeps one core busy: any core, then the last one
    #[arg(long)]
    neighbour: bool,
    /// Also measure the time from opening the file to the first token, with and without its pages in memory
    #[arg(long)]
    cold_start: bool,
    /// Thread counts, one row each [default: one thread, then all cores]
    #[arg(short, long, value_delimiter = ',', value_name = "N,N")]
    threads: Vec<usize>,
    /// Most prompt tokens of one step
    #[arg(short, long, default_value_t = 128, value_name = "TOKENS")]
    batch: u32,
    /// How keys and values are kept: f32, f16, int8, int8-int4 (values in 4 bits) or int4 [default: f16, or f32 where
    /// the weights are f32]
    #[arg(long)]
    cache: Option<CacheDtype>,
    /// Counted rounds, after one that is not
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// MiB that the model may take: experts that do not fit stay in the file [default: the machine's memory]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    memory: Option<u64>,
    /// MiB of experts that may stay in memory [default: what is left of --memory]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    expert_memory: Option<u64>,
    /// Read the weights into memory of the process, in huge pages where granted, instead of mapping the file
    #[arg(long)]
    copy: bool,
    /// As --copy, in huge pages that are set aside (`sysctl vm.nr_hugepages`), or not at all
    #[arg(long, conflicts_with = "copy")]
    reserved: bool,
    /// Run the reference backend, which is slow and exact
    #[arg(long)]
    reference: bool,
    /// Run on the first NVIDIA GPU, beside a probe of its memory; threads do not matter then
    #[arg(long, conflicts_with_all = ["reference", "copy", "reserved", "threads", "neighbour"])]
    cuda: bool,
    /// Multiply the rows of prompts on the NPU of a Rockchip RK3588
    #[arg(long, conflicts_with_all = ["reference", "cuda"])]
    npu: bool,
    /// Measure instead, on all threads, steps of several rows and, with a file, answers with and without speculation
    #[arg(long)]
    speculation: bool,
    /// The .muse file of what drafts for the file: it counts as memory and takes part in steps; --speculation shows what it
    /// is worth
    #[arg(long, value_name = "FILE", conflicts_with = "synthetic")]
    drafter: Option<PathBuf>,
    /// Print the memory that it would take and measure nothing
    #[arg(long)]
    plan: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Arguments {
    fn lengths(&self) -> Lengths {
        Lengths { depth: self.depth, prompt: self.prompt, answer: self.answer, rounds: self.rounds }
    }

    /// What is wrong with arguments that are each right.
    fn problem(&self) -> Option<&'static str> {
        if self.prompt == 0 && self.answer == 0 {
            return Some("-p 0 -n 0 leaves nothing to measure");
        }
        let several = self.parallel.iter().any(|sessions| *sessions > 1);
        (several && self.answer == 0).then_some("--parallel measures answers; -n 0 leaves none")
    }

    /// One thread, then all cores, where none are given.
    fn threads(&self) -> Vec<usize> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        match self.threads.as_slice() {
            _ if self.cuda => vec![1],
            [] if cores > 1 => vec![1, cores],
            [] => vec![1],
            given => given.to_vec(),
        }
    }

    fn placement(&self) -> Placement {
        match (self.copy, self.reserved) {
            (false, false) => Placement::Mapped,
            (_, false) => Placement::Copied,
            (_, true) => Placement::Reserved,
        }
    }

    fn backend(&self) -> BackendChoice {
        match () {
            () if self.reference => BackendChoice::Reference,
            () if self.cuda => BackendChoice::Cuda,
            () if self.npu => BackendChoice::Rknn,
            () => BackendChoice::Cpu,
        }
    }

    fn load_options(&self, threads: Option<usize>) -> LoadOptions {
        LoadOptions {
            context: Some(self.depth.saturating_add(self.prompt.max(self.answer)).max(1)),
            slots: self.parallel.iter().copied().max().unwrap_or(1),
            batch_tokens: self.batch.min(self.prompt.max(self.depth).max(1)),
            threads,
            cache: self.cache,
            memory_budget: self.memory.map(|mib| mib << 20),
            expert_memory: self.expert_memory.map(|mib| mib << 20),
            backend: self.backend(),
            weights: self.placement(),
            drafter: self.drafter.clone(),
            ..LoadOptions::default()
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scheme {
    Symmetric,
    Asymmetric,
    Codebook,
}

/// Takes one of `values`.
fn listed<const N: usize>(values: [&'static str; N]) -> impl TypedValueParser<Value = u16> {
    PossibleValuesParser::new(values).map(|value| value.parse().expect("listed values are numbers"))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if !arguments.plan
        && let Some(problem) = arguments.problem()
    {
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
    let options = arguments.load_options(None);
    let Some(shape) = arguments.synthetic.as_deref().and_then(shapes::find) else {
        let file = arguments.file.as_deref().expect("clap asks for one of the two");
        if !arguments.plan {
            return bench(arguments, file);
        }
        print(arguments, &muse_runtime::plan(&open(file, &options)?, &options)?);
        return Ok(());
    };
    let (mut spec, layout) = (shape.spec(), layout(arguments));
    let kept = arguments.layers.map_or(spec.layers.len(), |count| count as usize);
    spec.layers.drain(..spec.layers.len().saturating_sub(kept));
    if arguments.plan {
        print(arguments, &Plan::new(&spec, weight_bytes(&spec, layout), [layout], &options)?);
        return Ok(());
    }
    let folder = match &arguments.dir {
        Some(dir) => tempfile::TempDir::new_in(dir),
        None => tempfile::TempDir::new(),
    };
    let folder = folder.map_err(BenchError::Folder)?;
    let path = folder.path().join("random.muse");
    synthetic::write(&path, &spec, layout)?;
    bench(arguments, &path)
}

fn layout(arguments: &Arguments) -> Layout {
    let group = arguments.group;
    match arguments.bits {
        4 => match arguments.scheme {
            Scheme::Symmetric => Layout::Q4 { group },
            Scheme::Asymmetric => Layout::Q4Asym { group },
            Scheme::Codebook => Layout::Q4Codebook { group },
        },
        8 => Layout::Q8 { group },
        16 => Layout::F16,
        _ => Layout::F32,
    }
}

/// Bytes of the tensors that [`synthetic::write`] writes.
fn weight_bytes(spec: &Spec, layout: Layout) -> WeightBytes {
    let bytes = |tensor: muse_format::Expected| {
        let layout = random::layout_of(&tensor, layout);
        let bytes = layout.byte_len(tensor.rows, tensor.cols).unwrap_or(u64::MAX);
        (tensor.name, bytes)
    };
    let all: HashMap<_, _> = spec.tensors().into_iter().map(bytes).collect();
    WeightBytes::new(spec, |name| all.get(name).copied().unwrap_or(0))
}

fn print<T: serde::Serialize + std::fmt::Display>(arguments: &Arguments, what: &T) {
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(what).expect("plain numbers and text"));
    } else {
        println!("{what}");
    }
}

fn bench(arguments: &Arguments, file: &Path) -> Result<(), BenchError> {
    if arguments.speculation {
        let own = arguments.load_options(arguments.threads.iter().copied().max());
        let LoadOptions { batch_tokens, .. } = LoadOptions::default();
        let options = LoadOptions { context: Some(1024), batch_tokens, ..own };
        let answers = arguments.synthetic.is_none();
        print(arguments, &speculation::measure(file, answers, &options, arguments.rounds)?);
        return Ok(());
    }
    let threads = arguments.threads();
    // First, as it needs a file that nobody maps.
    let most = threads.iter().copied().max();
    let cold_start = arguments
        .cold_start
        .then(|| cold::measure(file, &arguments.load_options(most), arguments.rounds))
        .transpose()?;
    let options = arguments.load_options(None);
    let mapped = place(open(file, &options)?, &options)?;
    let plan = muse_runtime::plan(&mapped, &options)?;
    let probe = (!arguments.cuda).then(Probe::new).transpose().map_err(BenchError::Probe)?;
    // The probe's buffer would take the place of experts.
    let (probe, memory) = match (probe, plan.experts_on_flash) {
        (Some(probe), Some(_)) => {
            let rates =
                threads.iter().map(|threads| (0..5).map(|_| probe.read(*threads)).fold(0.0, f64::max));
            (None, rates.collect())
        }
        (probe, _) => (probe, Vec::new()),
    };
    #[cfg(feature = "cuda")]
    let device = arguments.cuda.then(|| DeviceProbe::new(DeviceProbe::LEN)).transpose()?;
    let (mut rows, mut backend) = (Vec::new(), String::new());
    for (i, threads) in threads.into_iter().enumerate() {
        // Where there is no such GPU this says so.
        let mut engine = load_mapped(&mapped, &arguments.load_options(Some(threads)), random::no_text())?;
        let ceiling = match &probe {
            Some(probe) => Ceiling::Memory(probe),
            #[cfg(feature = "cuda")]
            None if arguments.cuda => Ceiling::Device(device.as_ref().expect("made above")),
            None => Ceiling::Disk { path: file, memory: memory[i] },
        };
        backend.clone_from(&engine.info().backend);
        measure::fill(&mut *engine, plan.slots, arguments.depth)?;
        for parallel in arguments.parallel.iter().copied() {
            let bytes_per_token = measure::bytes_per_token(&mapped, &plan, arguments.lengths(), parallel);
            let mut rates = || measure::rates(&mut *engine, &ceiling, threads, arguments.lengths(), parallel);
            let row = |rates: &Rates| Row::new(threads, parallel, rates, bytes_per_token);
            let quiet = rates()?;
            rows.push(row(&quiet));
            for neighbour in Neighbour::ALL.into_iter().filter(|_| arguments.neighbour) {
                let busy = neighbour.start().map_err(BenchError::Neighbour)?;
                let beside = rates()?;
                busy.stop().map_err(BenchError::Neighbour)?;
                rows.push(row(&beside).beside(neighbour, &quiet));
            }
        }
    }
    let report = Report {
        model: mapped.spec.family.clone(),
        layouts: layouts(&mapped),
        weight_bytes: mapped.weight_bytes(),
        huge_page_bytes: mapped.huge_bytes(),
        working_bytes: plan.working_bytes,
        backend,
        depth: arguments.depth,
        prompt_tokens: arguments.prompt,
        answer_tokens: arguments.answer,
        rounds: arguments.rounds,
        rows,
        cold_start,
    };
    print(arguments, &report);
    Ok(())
}

/// Layouts of the matrices, each once.
fn layouts(mapped: &Mapped) -> Vec<String> {
    let tensors = mapped.spec.tensors();
    let matrices = tensors.iter().filter(|tensor| !matches!(tensor.role, Role::Vector | Role::Router));
    let mut layouts: Vec<_> = matrices.filter_map(|t| Some(mapped.stored(&t.name)?.0)).collect();
    layouts.sort_unstable();
    layouts.dedup();
    layouts.iter().map(Layout::to_string).collect()
}
