//! The first process of the machine that `avx512-boot.sh` emulates. Where the CPU has what the `avx512-vnni` variants
//! need, it runs `/test` with its own arguments that follow `/test`; elsewhere those would be left out in silence.
//! When it ends, the kernel panics and names its status.
use std::arch::is_x86_feature_detected as has;
use std::process::{Command, exit};
use std::time::Duration;

fn main() {
    let found = [
        ("avx2", has!("avx2")),
        ("fma", has!("fma")),
        ("f16c", has!("f16c")),
        ("avx512f", has!("avx512f")),
        ("avx512bw", has!("avx512bw")),
        ("avx512dq", has!("avx512dq")),
        ("avx512vl", has!("avx512vl")),
        ("avx512vnni", has!("avx512vnni")),
    ];
    let status = match found.iter().find(|(_, found)| !found) {
        Some((name, _)) => {
            println!("the emulated CPU has no {name}");
            126
        }
        None => {
            println!("the emulated CPU has {}", found.map(|(name, _)| name).join(" "));
            test()
        }
    };
    // The serial line still sends what was written, and what is not sent when the kernel panics is lost.
    std::thread::sleep(Duration::from_secs(2));
    exit(status);
}

fn test() -> i32 {
    // The kernel puts the options that it does not know before those meant for this program.
    let arguments = std::env::args_os().skip_while(|argument| argument != "/test").skip(1);
    match Command::new("/test").args(arguments).status() {
        Ok(status) => status.code().unwrap_or_else(|| {
            println!("the test program ended with {status}");
            125
        }),
        Err(error) => {
            println!("the test program does not start: {error}");
            124
        }
    }
}
