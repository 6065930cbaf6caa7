//! The command line, as people type it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use muse_quantize::policy::{Bits, Scheme};
use muse_runtime::CacheDtype;

/// Turn a Hugging Face checkpoint or a GGUF into one .muse file, and look into such files.
#[derive(Parser)]
#[command(name = "muse-quantize", version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "Examples:
  muse-quantize convert SmolLM2-135M-Instruct/ -o smol.muse --bits 4
  muse-quantize convert SmolLM2-135M-Instruct.Q4_1.gguf -o smol.muse
  muse-quantize inspect smol.muse --tensors
  muse-quantize verify smol.muse
  muse-quantize eval generate smol.muse --tokens \"1 2 3\" --count 20

Exit status: 0 success, 1 error, 2 wrong usage.";

#[derive(Subcommand)]
pub enum Command {
    /// Convert a checkpoint to a .muse file
    Convert(Convert),
    /// Show what a .muse file holds
    Inspect(Inspect),
    /// Check every hash of a .muse file
    Verify(Verify),
    /// Ask a .muse file's model
    Eval(Eval),
    /// Write a shell's completion script to standard output
    Completions { shell: clap_complete::Shell },
    /// Write manual pages into a folder
    Man { dir: PathBuf },
}

#[derive(Args)]
#[command(after_help = CONVERT_EXAMPLES)]
pub struct Convert {
    /// A Hugging Face folder (config.json, tokenizer.json, *.safetensors) or a .gguf file
    pub source: PathBuf,
    /// The file to write; it appears whole or not at all
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Bits of a matrix's weights [default: 4 for a folder; as stored for a GGUF]
    #[arg(long, value_parser = bits)]
    pub bits: Option<Bits>,
    /// Bits of the embedding and the head [default: as --bits]
    #[arg(long, value_parser = bits, value_name = "BITS")]
    pub embed_bits: Option<Bits>,
    /// Weights that share a scale
    #[arg(long, default_value = "32", value_parser = group)]
    pub group: u16,
    /// How weights become integers: rtn is round-to-nearest with a search over scales
    #[arg(long, value_enum, default_value = "rtn")]
    pub method: Method,
    /// How 4 bits stand for a weight: symmetric is 16 even steps, asymmetric adds an offset a group (16 bits more),
    /// codebook is 16 uneven steps
    #[arg(long, default_value = "symmetric", value_parser = scheme)]
    pub scheme: Scheme,
    /// Make the file of the layer that guesses the token after the next, a drafter of the model, in the model's place
    #[arg(long)]
    pub mtp: bool,
    /// The board that the file is for; any board that reads the cpu layouts where absent
    #[arg(long, value_name = "NAME")]
    pub board: Option<String>,
    /// A config.json key that may be overlooked, though this tool does not know it; may be repeated
    #[arg(long, value_name = "KEY")]
    pub ignore_config: Vec<String>,
    /// Replace the output where it exists
    #[arg(long)]
    pub force: bool,
    /// Also write the report to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

const CONVERT_EXAMPLES: &str =
    "Without --bits a GGUF keeps its own storage: F32, F16, BF16, Q4_0, Q4_1, Q8_0 and \
IQ4_NL exactly; Q4_K and IQ4_XS keep their integers, their scales rounded to f16; every other type becomes 8 bits.

Examples:
  muse-quantize convert Qwen3-0.6B/ -o qwen3.muse                      4 bits, groups of 32
  muse-quantize convert Qwen3-0.6B/ -o qwen3.muse --bits 8 --group 64
  muse-quantize convert Qwen3-0.6B/ -o qwen3.muse --scheme codebook --embed-bits 8
  muse-quantize convert Qwen3.5-4B/ --mtp -o qwen3.5-mtp.muse          its drafter
  muse-quantize convert SmolLM2.Q4_1.gguf -o smol.muse                 its blocks, bit for bit";

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Method {
    Rtn,
}

#[derive(Args)]
pub struct Inspect {
    pub file: PathBuf,
    /// List every tensor
    #[arg(long)]
    pub tensors: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct Verify {
    pub file: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
#[command(after_help = EVAL_EXAMPLES)]
pub struct Eval {
    #[command(subcommand)]
    pub what: What,
}

const EVAL_EXAMPLES: &str = "Examples:
  muse-quantize eval logits smol.muse --tokens \"1 2 3\" --json
  muse-quantize eval generate smol.muse --tokens \"1 2 3\" --count 20 --json
  muse-quantize eval embed minilm.muse --text \"a small dog\" --text \"a puppy\"
  muse-quantize eval perplexity smol.muse --text page.txt --context 512
  muse-quantize eval kl smol-f32.muse smol.muse --text page.txt";

#[derive(Subcommand)]
pub enum What {
    /// Logits after one position of a list of tokens
    Logits {
        file: PathBuf,
        /// Token ids, separated by blanks
        #[arg(long, value_parser = tokens)]
        tokens: Tokens,
        #[command(flatten)]
        media: Media,
        /// The position, from 0 [default: the last]
        #[arg(long)]
        position: Option<u64>,
        #[command(flatten)]
        common: EvalCommon,
    },
    /// Tokens that follow, always the likeliest
    Generate {
        file: PathBuf,
        /// Token ids, separated by blanks
        #[arg(long, value_parser = tokens)]
        tokens: Tokens,
        #[command(flatten)]
        media: Media,
        /// How many; stop ids do not end it
        #[arg(long)]
        count: u32,
        /// The .muse file of a drafter of the model, whose blocks are verified: the same tokens in fewer steps
        #[arg(long, value_name = "FILE")]
        drafter: Option<PathBuf>,
        #[command(flatten)]
        common: EvalCommon,
    },
    /// Vectors of texts, of a model that embeds
    Embed {
        file: PathBuf,
        /// A text; may be repeated
        #[arg(long, required_unless_present = "tokens")]
        text: Vec<String>,
        /// Token ids, separated by blanks, taken as they are; may be repeated
        #[arg(long, value_parser = tokens, conflicts_with_all = ["text", "prompt", "truncate"])]
        tokens: Vec<Tokens>,
        /// The name of a text that the model knows and that goes in front of each
        #[arg(long, value_name = "NAME")]
        prompt: Option<String>,
        /// Cut what is too long
        #[arg(long)]
        truncate: bool,
        #[command(flatten)]
        common: EvalCommon,
    },
    /// How well a model predicts a text, in windows of --context tokens
    Perplexity {
        file: PathBuf,
        #[command(flatten)]
        text: TextArgs,
        #[command(flatten)]
        common: EvalCommon,
    },
    /// How far a model's predictions are from a reference's, in nats a token
    Kl {
        reference: PathBuf,
        file: PathBuf,
        #[command(flatten)]
        text: TextArgs,
        #[command(flatten)]
        common: EvalCommon,
    },
}

#[derive(Args)]
pub struct Media {
    /// A PNG, JPEG or WebP, in the place of the tokens that stand for images; may be repeated
    #[arg(long, value_name = "FILE", conflicts_with = "inputs")]
    pub image: Vec<PathBuf>,
    /// A video, a folder whose files are its frames in the order of their names, as images are; may be repeated
    #[arg(long, value_name = "DIR", conflicts_with = "inputs", requires = "fps")]
    pub video: Vec<PathBuf>,
    /// Frames a second of the videos' folders
    #[arg(long, value_name = "RATE", requires = "video")]
    pub fps: Option<f64>,
    /// A WAV or FLAC, in the place of the tokens that stand for sounds; may be repeated
    #[arg(long, value_name = "FILE", conflicts_with = "inputs")]
    pub audio: Vec<PathBuf>,
    /// Images as tensors pixel_values and image_grid_thw of a safetensors file, videos as pixel_values_videos and
    /// video_grid_thw, and sounds as input_values and input_values_mask, in the place of the tokens that stand for them
    #[arg(long, value_name = "FILE")]
    pub inputs: Option<PathBuf>,
}

#[derive(Args)]
pub struct TextArgs {
    /// A file of UTF-8 text
    #[arg(long, value_name = "FILE")]
    pub text: PathBuf,
    /// Tokens of a window
    #[arg(long, default_value = "512")]
    pub context: u32,
}

#[derive(Args)]
pub struct EvalCommon {
    /// Which kernels: cpu is the fastest, reference the definition; rknn multiplies prompts on the NPU of an RK3588, beside
    /// which the reference of kl is on the CPU
    #[arg(long, value_enum, default_value = "cpu")]
    pub backend: Backend,
    /// Threads [default: one a core]
    #[arg(long)]
    pub threads: Option<usize>,
    /// How keys and values are kept: f32, f16, int8, int8-int4 (values in 4 bits) or int4 [default: f16, or f32 where
    /// the weights are f32]. Not for the reference of kl
    #[arg(long)]
    pub cache: Option<CacheDtype>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    Cpu,
    Rknn,
    Reference,
}

/// Ids of one argument.
#[derive(Clone)]
pub struct Tokens(pub Vec<u32>);

fn tokens(text: &str) -> Result<Tokens, String> {
    let ids: Result<_, _> = text.split_whitespace().map(str::parse).collect();
    ids.map(Tokens).map_err(|e| format!("token ids are whole numbers separated by blanks: {e}"))
}

fn bits(text: &str) -> Result<Bits, String> {
    match text {
        "4" => Ok(Bits::Four),
        "8" => Ok(Bits::Eight),
        "16" => Ok(Bits::Sixteen),
        "32" => Ok(Bits::ThirtyTwo),
        _ => Err("use 4, 8, 16 or 32".into()),
    }
}

fn scheme(text: &str) -> Result<Scheme, String> {
    match text {
        "symmetric" => Ok(Scheme::Symmetric),
        "asymmetric" => Ok(Scheme::Asymmetric),
        "codebook" => Ok(Scheme::Codebook),
        _ => Err("use symmetric, asymmetric or codebook".into()),
    }
}

fn group(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|g| matches!(g, 32 | 64 | 128)).ok_or_else(|| "use 32, 64 or 128".into())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
