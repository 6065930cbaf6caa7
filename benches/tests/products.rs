//! Single operations on a GPU, or on the emulated driver of `scripts/cuda.sh`, where their times say nothing.

use muse_benches::device::DeviceProbe;
use muse_benches::products::{Extent, measure};
use muse_kernels::{Backend, CudaBackend, CudaPeak};

#[test]
fn every_operation_is_measured_once() {
    let extent = Extent::tiny();
    let report = measure(&extent).unwrap();
    // Five products of few rows and four of a prompt; attention of both.
    let matrices = extent.layouts.len() * (5 * extent.few.len() + 4);
    assert_eq!(report.rows.len(), matrices + 2 * extent.caches.len());
    let mut seen = std::collections::HashSet::new();
    for row in &report.rows {
        assert!(row.us > 0.0 && row.us.is_finite(), "{row:?}");
        assert!(row.bytes.is_some() != row.operations.is_some(), "{row:?}");
        assert_eq!(row.graph, row.bytes.map(|_| true), "{row:?}");
        assert!(seen.insert((&row.operation, &row.layout, row.rows)), "{row:?} twice");
    }
    let ceilings = [report.read_gb_per_s, report.half_tera_per_s, report.bytes_tera_per_s, report.launch_us];
    assert!(ceilings.iter().all(|ceiling| *ceiling > 0.0 && ceiling.is_finite()), "{ceilings:?}");
    // The columns of the table hold what belongs in them.
    let table = report.to_string();
    assert_eq!(table.lines().count(), 3 + report.rows.len(), "{table}");
    assert!(table.lines().skip(2).all(|line| line.split_whitespace().count() >= 11), "{table}");
}

#[test]
fn a_probe_reads_everything_once() {
    let mut cuda = CudaBackend::new().unwrap();
    for len in [4, 128, 4 * 128 * 9 + 4, 70000] {
        let values: Vec<f32> = (0..len).map(|i| (i as f32).sqrt() - 3.0).collect();
        let (mut x, mut out) = (cuda.buffer(len).unwrap(), cuda.buffer(1).unwrap());
        cuda.write(&mut x, &values).unwrap();
        cuda.probe_read(&mut out, &x).unwrap();
        let mut sum = [0.0];
        cuda.read(&out, &mut sum).unwrap();
        let expected = values.iter().fold(0_u32, |sum, value| sum.wrapping_add(value.to_bits()));
        assert_eq!(sum[0].to_bits(), expected, "{len} numbers");
    }
    assert!(DeviceProbe::new(1 << 10).unwrap().read().unwrap() > 0.0);
}

#[test]
fn a_peak_multiplies_as_often_as_it_says() {
    let mut cuda = CudaBackend::new().unwrap();
    let len = cuda.probe_len();
    for peak in [CudaPeak::Half, CudaPeak::Bytes] {
        let mut sums = |rounds| {
            let mut out = cuda.buffer(len).unwrap();
            let operations = cuda.probe_peak(&mut out, peak, rounds).unwrap();
            let mut values = vec![0.0; len];
            cuda.read(&out, &mut values).unwrap();
            let value = |x: f32| if peak == CudaPeak::Half { f64::from(x) } else { f64::from(x.to_bits()) };
            (operations, values.into_iter().map(value).collect::<Vec<_>>())
        };
        let ((once, ones), (thrice, threes)) = (sums(1), sums(3));
        assert_eq!(thrice, 3 * once);
        // What each round adds is the same, and exact: probe.cu.
        assert!(ones.iter().all(|one| *one > 0.0), "{peak:?}");
        assert!(ones.iter().zip(&threes).all(|(one, three)| *three == 3.0 * one), "{peak:?}");
    }
}
