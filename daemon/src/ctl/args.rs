//! The command line of `musectl`.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

/// Talks to mused, the service for language models on this device.
#[derive(Debug, Parser)]
#[command(
    name = "musectl",
    version,
    after_help = "Examples:\n  musectl chat\n  musectl generate 'What is gravity?'\n  \
                  git diff | musectl generate --system 'Write a commit message for this diff.'\n  \
                  musectl models --json\n  musectl doctor\n\n\
                  Exit codes: 0 done, 1 failed, 2 wrong usage."
)]
pub struct Args {
    /// Use the session bus instead of the system bus
    #[arg(long, global = true)]
    pub session: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Talk with a model: type, read, type again
    #[command(
        after_help = "While it answers, Ctrl-C stops the answer. At the prompt:\n  /reset      forget the \
                            conversation\n  /quit       leave (or Ctrl-D)\n  /help       this list\n\n\
                            What the model thinks is dimmed. With --tools, each call is shown and its result is \
                            asked for.\n\n\
                            Examples:\n  musectl chat --model fast --system 'Answer in one sentence.'\n  \
                            musectl chat --mode thinking --tools tools.json"
    )]
    Chat(Chat),
    /// Answer one prompt
    #[command(after_help = "Examples:\n  musectl generate 'What is gravity?'\n  \
                            musectl generate --json --temperature 0 --max-tokens 50 'Name three colours.'\n  \
                            musectl generate --raw 'Once upon a time' --max-tokens 40\n  \
                            musectl generate --json-schema person.json 'Invent a person.'\n  \
                            musectl generate --image photo.jpg 'What is this?'\n  \
                            musectl generate --video frames/ --fps 2 'What happens?'\n  \
                            musectl generate --audio memo.wav 'What is said?'\n  \
                            musectl generate --json --tools tools.json 'Is it raining in Oslo?'\n  \
                            musectl generate --tools tools.json --messages conversation.json\n  \
                            musectl generate < prompt.txt\n\n\
                            A conversation is a JSON array of {\"role\",\"content\"}. An assistant's message may have \
                            \"tool_calls\" as --json prints them, and a message of role tool, the result of a call, \
                            has its \"tool_call_id\" and \"name\".")]
    Generate(Generate),
    /// Make vectors of texts, by which texts are compared
    #[command(
        after_help = "A line of numbers for each text, in their order; with --json an object for each, with \
                            \"text\" and \"embedding\". The model must be one that embeds.\n\n\
                            Examples:\n  musectl embed --model minilm 'a small dog' 'a puppy'\n  \
                            musectl embed --model minilm --json < lines.txt > vectors.jsonl\n  \
                            musectl embed --model gemma-embed --prompt query 'who wrote it?'"
    )]
    Embed(Embed),
    /// List the models
    Models {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Load a model now rather than at its first use
    Load {
        /// A model's name or an alias
        model: String,
    },
    /// Give a model's memory back
    Unload {
        /// A model's name or an alias
        model: String,
        /// End your answers that run on it, where nobody else's do; as root, everybody's
        #[arg(long)]
        force: bool,
    },
    /// Show what the service does
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Check this machine and the service, and say what to do about what is wrong
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Configuration file [default: /etc/muse/mused.toml where it exists]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Compute a small model with the kernels that models run on, and compare it with plain loops: a second
        #[arg(long)]
        selftest: bool,
    },
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  musectl completions bash > /etc/bash_completion.d/musectl")]
    Completions { shell: clap_complete::Shell },
    /// Write the man pages of musectl and mused
    Man {
        /// Folder to write to; made where it does not exist
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
pub struct Chat {
    #[command(flatten)]
    pub answer: Answer,
}

#[derive(Debug, clap::Args)]
pub struct Generate {
    #[command(flatten)]
    pub answer: Answer,
    /// Continue the text itself, without the model's chat template
    #[arg(long, conflicts_with_all = ["system", "messages", "image", "video", "audio"])]
    pub raw: bool,
    /// Answer a whole conversation instead of a prompt
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "system", "image", "video", "audio"])]
    pub messages: Option<PathBuf>,
    /// Print one JSON object when the answer is complete
    #[arg(long)]
    pub json: bool,
    /// The prompt; standard input where absent
    pub prompt: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct Embed {
    /// A model's name or an alias; the service's default where absent
    #[arg(short, long, default_value = "", hide_default_value = true)]
    pub model: String,
    /// The name of a text that the model knows and that goes in front of each
    #[arg(long, value_name = "NAME")]
    pub prompt: Option<String>,
    /// Cut what is too long
    #[arg(long)]
    pub truncate: bool,
    /// Yield to requests that people wait for
    #[arg(long)]
    pub background: bool,
    /// Print a JSON object for each text
    #[arg(long)]
    pub json: bool,
    /// The texts; the lines of standard input where absent, empty ones left out
    #[arg(value_name = "TEXT")]
    pub texts: Vec<String>,
}

/// What every answer takes. A value that is not given is the model's own.
#[derive(Debug, Clone, clap::Args)]
pub struct Answer {
    /// A model's name or an alias; the service's default where absent
    #[arg(short, long, default_value = "", hide_default_value = true)]
    pub model: String,
    /// A system message
    #[arg(short, long)]
    pub system: Option<String>,
    /// Most tokens of an answer
    #[arg(long, value_name = "N")]
    pub max_tokens: Option<u32>,
    /// 0 always takes the likeliest token
    #[arg(long, value_name = "T")]
    pub temperature: Option<f64>,
    /// Only the likeliest tokens whose probabilities add up to P
    #[arg(long, value_name = "P")]
    pub top_p: Option<f64>,
    /// Only the K likeliest tokens
    #[arg(long, value_name = "K")]
    pub top_k: Option<u32>,
    /// Only tokens at least P times as likely as the likeliest
    #[arg(long, value_name = "P")]
    pub min_p: Option<f64>,
    /// Above 1, repeating becomes less likely
    #[arg(long, value_name = "R")]
    pub repetition_penalty: Option<f64>,
    /// The same seed gives the same answer
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// End the answer before this text; may be repeated
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// How hard to think, where the model can
    #[arg(long)]
    pub mode: Option<Mode>,
    /// Tools that the model may call: a JSON array of definitions with name, description and parameters
    #[arg(long, value_name = "FILE")]
    pub tools: Option<PathBuf>,
    /// Answer with JSON of the JSON schema in this file
    #[arg(long, value_name = "FILE", conflicts_with = "tools")]
    pub json_schema: Option<PathBuf>,
    #[command(flatten)]
    pub media: Media,
    /// Do not show what the model thinks before it answers
    #[arg(long)]
    pub hide_reasoning: bool,
    /// Compute one token a step, also where the answer repeats text
    #[arg(long)]
    pub no_speculation: bool,
    /// Yield to answers that people wait for
    #[arg(long)]
    pub background: bool,
}

/// What is shown beside the text. In a chat, with the first thing said.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Media {
    /// Show the model a PNG, JPEG or WebP; may be repeated. In a chat, with the first thing said
    #[arg(long, value_name = "FILE")]
    pub image: Vec<PathBuf>,
    /// Show the model a video: a folder whose files are its frames in the order of their names, as images are; may be
    /// repeated
    #[arg(long, value_name = "DIR", requires = "fps")]
    pub video: Vec<PathBuf>,
    /// Frames a second of the videos' folders
    #[arg(long, value_name = "RATE", requires = "video")]
    pub fps: Option<f64>,
    /// Play the model a WAV or FLAC; may be repeated. In a chat, with the first thing said
    #[arg(long, value_name = "FILE")]
    pub audio: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Mode {
    Instant,
    Thinking,
    Contemplating,
}
