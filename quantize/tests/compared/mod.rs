//! Rows of numbers that another implementation computed, and how far ours are from them.

use std::fs;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};

/// The tensor `name` of a file, f32 of so many `rows`.
pub fn stored_rows(path: &Path, name: &str, rows: usize) -> Vec<Vec<f32>> {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = file.tensor(name).unwrap();
    assert_eq!((tensor.dtype(), tensor.shape()[0]), (Dtype::F32, rows));
    let (values, _) = tensor.data().as_chunks::<4>();
    let values: Vec<f32> = values.iter().map(|b| f32::from_le_bytes(*b)).collect();
    values.chunks_exact(tensor.shape()[1]).map(<[f32]>::to_vec).collect()
}

fn deviation(row: &[f32]) -> f64 {
    let n = row.len() as f64;
    let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
    (row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n).sqrt()
}

/// Largest error of any number of any row, in standard deviations of that row; infinite where one is NaN.
pub fn worst(expected: &[Vec<f32>], actual: &[Vec<f32>]) -> f64 {
    assert_eq!(expected.len(), actual.len());
    let of_row = |expected: &[f32], actual: &[f32]| {
        assert_eq!(expected.len(), actual.len());
        let errors = expected.iter().zip(actual).map(|(e, a)| (f64::from(*e) - f64::from(*a)).abs());
        let nan_is_worst = |e: f64| if e.is_nan() { f64::INFINITY } else { e };
        errors.map(nan_is_worst).fold(0.0, f64::max) / deviation(expected)
    };
    expected.iter().zip(actual).map(|(e, a)| of_row(e, a)).fold(0.0, f64::max)
}

/// Mean square error of each row, in squared standard deviations of it.
fn square_errors(expected: &[Vec<f32>], actual: &[Vec<f32>]) -> Vec<f64> {
    let square = |e: &[f32], a: &[f32]| {
        let sum: f64 = e.iter().zip(a).map(|(e, a)| (f64::from(*e) - f64::from(*a)).powi(2)).sum();
        sum / e.len() as f64 / deviation(e).powi(2)
    };
    assert_eq!(expected.len(), actual.len());
    expected.iter().zip(actual).map(|(e, a)| square(e, a)).collect()
}

/// Root mean square error over all rows, in standard deviations of each.
pub fn mean_error(expected: &[Vec<f32>], actual: &[Vec<f32>]) -> f64 {
    let squares = square_errors(expected, actual);
    (squares.iter().sum::<f64>() / squares.len() as f64).sqrt()
}

/// Root mean square error of the middle one of the rows; NaN where any row has one.
pub fn median_error(expected: &[Vec<f32>], actual: &[Vec<f32>]) -> f64 {
    let mut squares = square_errors(expected, actual);
    squares.sort_by(f64::total_cmp);
    if squares.iter().any(|square| square.is_nan()) { f64::NAN } else { squares[squares.len() / 2].sqrt() }
}
