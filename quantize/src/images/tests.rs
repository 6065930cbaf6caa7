use muse_format::{Pixels, Vision, VisionLayer};

use super::*;

/// Patches of 12 numbers, squares of 4 patches, at most 6 squares.
fn vision() -> VisionInfo {
    let pixels = Pixels { patch: 2, tokens_max: 6, ..Pixels::default() };
    let spec = Vision {
        token: 1,
        blank_tokens: vec![1],
        pixels,
        dim: 8,
        heads: 1,
        ffn_dim: 8,
        positions: 2,
        frequencies: 2,
        merge: 2,
        adapter_dim: 8,
        layers: vec![VisionLayer { window: None }],
        ..Vision::default()
    };
    VisionInfo { spec, image_tokens: 6 }
}

type Tensors<'a> = &'a [(&'a str, Dtype, &'a [usize], Vec<u8>)];

fn file(tensors: Tensors<'_>) -> Vec<u8> {
    let view = |(name, dtype, shape, data): &'_ (&'_ str, Dtype, &'_ [usize], Vec<u8>)| {
        (name.to_string(), TensorView::new(*dtype, shape.to_vec(), data).unwrap().clone().data().to_vec())
    };
    let data: Vec<_> = tensors.iter().map(view).collect();
    let views = tensors.iter().zip(&data).map(|((_, dtype, shape, _), (name, data))| {
        (name.clone(), TensorView::new(*dtype, shape.to_vec(), data).unwrap())
    });
    safetensors::serialize(views.collect::<Vec<_>>(), None).unwrap()
}

fn numbers(count: usize) -> Vec<u8> {
    (0..count).flat_map(|i| (i as f32 / 7.0).to_le_bytes()).collect()
}

fn grid(sides: &[i64]) -> Vec<u8> {
    sides.iter().flat_map(|side| side.to_le_bytes()).collect()
}

#[test]
fn images_are_cut_from_one_tensor() {
    let values = ("pixel_values", Dtype::F32, &[12, 12][..], numbers(144));
    let bytes = file(&[values, ("image_grid_thw", Dtype::I64, &[2, 3], grid(&[1, 2, 4, 1, 2, 2]))]);
    let images = read(&bytes, &vision()).unwrap();
    let [Medium::Image(first), Medium::Image(second)] = &images[..] else { panic!("{images:?}") };
    assert_eq!([first, second].map(|image| image.tokens(&vision().spec)), [2, 1]);
    let mut patch = Vec::new();
    second.patch(0, &vision().spec.pixels, &mut patch);
    assert_eq!(patch, (96..108).map(|i| i as f32 / 7.0).collect::<Vec<_>>());
}

#[test]
fn videos_are_cut_into_grids() {
    let values = ("pixel_values_videos", Dtype::F32, &[20, 12][..], numbers(240));
    let sides = ("video_grid_thw", Dtype::I64, &[2, 3][..], grid(&[3, 2, 2, 1, 2, 4]));
    let videos = read(&file(&[values.clone(), sides.clone()]), &vision()).unwrap();
    let tokens = videos.iter().map(|medium| match medium {
        Medium::Video(grid) => grid.tokens(&vision().spec),
        other => panic!("{other:?}"),
    });
    assert_eq!(tokens.collect::<Vec<_>>(), [1, 1, 1, 2]);
    let Medium::Video(third) = &videos[2] else { unreachable!() };
    let mut patch = Vec::new();
    third.patch(0, &vision().spec.pixels, &mut patch);
    assert_eq!(patch, (96..108).map(|i| i as f32 / 7.0).collect::<Vec<_>>());
    // Images beside them come first.
    let image = ("pixel_values", Dtype::F32, &[4, 12][..], numbers(48));
    let of_image = ("image_grid_thw", Dtype::I64, &[1, 3][..], grid(&[1, 2, 2]));
    let both = read(&file(&[values, sides, image, of_image]), &vision()).unwrap();
    assert_eq!(both.iter().map(Medium::kind).filter(|kind| *kind == MediumKind::Image).count(), 1);
    assert_eq!((both[0].kind(), both.len()), (MediumKind::Image, 5));
}

#[test]
fn images_with_empty_patches_behind_are_cut_from_one_tensor() {
    let mut seeing = vision();
    seeing.spec.pixels.given = Given::Padded;
    // Of 2 x 4 and of 2 x 2 patches, in room for 9.
    let places = |sides: &[[i64; 2]]| -> Vec<i64> {
        let image = |[rows, cols]: &[i64; 2]| {
            let (rows, cols) = (*rows, *cols);
            let own = (0..rows).flat_map(move |row| (0..cols).flat_map(move |col| [col, row]));
            own.chain(std::iter::repeat(-1)).take(18).collect::<Vec<_>>()
        };
        sides.iter().flat_map(image).collect()
    };
    let read = |values: (Dtype, &[usize], Vec<u8>), places: &[i64], shape: &[usize]| {
        let values = ("pixel_values", values.0, values.1, values.2);
        read(&file(&[values, ("image_position_ids", Dtype::I64, shape, grid(places))]), &seeing)
    };
    let values = || (Dtype::F32, &[2, 9, 12][..], numbers(216));
    let images = read(values(), &places(&[[2, 4], [2, 2]]), &[2, 9, 2]).unwrap();
    let of = |medium: Medium| match medium {
        Medium::Image(image) => image,
        other => panic!("{other:?}"),
    };
    let images: Vec<_> = images.into_iter().map(of).collect();
    assert_eq!(images.iter().map(|image| image.tokens(&seeing.spec)).collect::<Vec<_>>(), [2, 1]);
    let mut patch = Vec::new();
    images[1].patch(1, &seeing.spec.pixels, &mut patch);
    // Of the second patch of the second image, red, green and blue of its four pixels.
    let at = |i: usize| (9 * 12 + 12 + i) as f32 / 7.0;
    let in_planes: Vec<f32> = (0..3).flat_map(|c| (0..4).map(move |i| at(3 * i + c))).collect();
    assert_eq!(patch, in_planes);

    let good = places(&[[2, 4], [2, 2]]);
    let changed = |at: usize, value: i64| {
        let mut places = good.clone();
        places[at] = value;
        places
    };
    let cases = [
        (read(values(), &changed(0, 1), &[2, 9, 2]), "image 0: image_position_ids must count"),
        (read(values(), &changed(2, i64::MAX), &[2, 9, 2]), "image 0: image_position_ids must count"),
        (read(values(), &changed(35, 0), &[2, 9, 2]), "image 1: image_position_ids must count"),
        (read(values(), &[-1; 36], &[2, 9, 2]), "image 0: image_position_ids must count"),
        (read(values(), &good, &[4, 9, 1]), "image_position_ids is I64 [4, 9, 1]"),
        (read(values(), &places(&[[3, 3], [2, 2]]), &[2, 9, 2]), "image 0: an image has 3 x 3 patches"),
        (read((Dtype::F32, &[18, 12], numbers(216)), &good, &[2, 9, 2]), "pixel_values is F32 [18, 12]"),
    ];
    for (result, expected) in cases {
        let error = result.expect_err(expected).to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    let other = ("image_grid_thw", Dtype::I64, &[1, 3][..], grid(&[1, 2, 2]));
    let error = super::read(&file(&[other]), &seeing).unwrap_err().to_string();
    assert!(
        error.contains("image_grid_thw is not supported") && error.contains("image_position_ids"),
        "{error}"
    );
}

#[test]
fn tiles_are_cut_from_one_tensor() {
    let mut seeing = vision();
    // 2 x 2 patches of 2 x 2 pixels.
    seeing.spec.pixels.given = Given::Planes;
    let values =
        |shape: &'static [usize]| ("pixel_values", Dtype::F32, shape, numbers(shape.iter().product()));
    let read = |tensors: Tensors<'_>| super::read(&file(tensors), &seeing);
    let tiles = read(&[values(&[2, 3, 4, 4])]).unwrap();
    let [_, Medium::Image(second)] = &tiles[..] else { panic!("{tiles:?}") };
    assert_eq!(second.tokens(&seeing.spec), 1);
    let mut patch = Vec::new();
    second.patch(1, &seeing.spec.pixels, &mut patch);
    let at = |i: usize| (48 + i) as f32 / 7.0;
    let expected = (0..3).flat_map(|c| [2, 3, 6, 7].map(|i| at(16 * c + i)));
    assert_eq!(patch, expected.collect::<Vec<_>>());
    assert!(read(&[values(&[0, 3, 4, 4])]).unwrap().is_empty());

    let grid = ("image_grid_thw", Dtype::I64, &[1, 3][..], grid(&[1, 2, 2]));
    let mut hole = values(&[1, 3, 4, 4]);
    hole.3[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let cases = [
        (read(&[]), "there is no tensor pixel_values"),
        (read(&[values(&[1, 3, 4, 4]), grid]), "tensor image_grid_thw is not supported"),
        (
            read(&[values(&[1, 3, 4, 5])]),
            "pixel_values is F32 [1, 3, 4, 5]; it must be floats, (tiles, 3, 4, 4)",
        ),
        (read(&[values(&[3, 4, 4])]), "pixel_values is F32 [3, 4, 4]"),
        (read(&[("pixel_values", Dtype::U8, &[1, 3, 4, 4], vec![0; 48])]), "pixel_values is U8"),
        (read(&[hole]), "image 0: a number of an image's patches is not finite"),
    ];
    for (result, expected) in cases {
        let error = result.expect_err(expected).to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn what_is_no_image_is_refused_by_name() {
    let values =
        |rows: usize, cols: usize| ("pixel_values", Dtype::F32, vec![rows, cols], numbers(rows * cols));
    let grid = |sides: &[i64]| ("image_grid_thw", Dtype::I64, vec![sides.len() / 3, 3], grid(sides));
    let video = |rows: usize| ("pixel_values_videos", Dtype::F32, vec![rows, 12], numbers(rows * 12));
    let video_grid = |sides: &[i64]| ("video_grid_thw", Dtype::I64, vec![1, 3], grid(sides).3);
    let mut hole = values(4, 12);
    hole.3[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let bytes = ("pixel_values", Dtype::U8, vec![4, 12], vec![0; 48]);
    let other = ("input_features", Dtype::F32, vec![1, 1], numbers(1));
    let cases = [
        (vec![values(4, 12)], "there is no tensor image_grid_thw"),
        (vec![grid(&[1, 2, 2])], "there is no tensor pixel_values"),
        (vec![values(4, 12), grid(&[1, 2, 2]), other], "tensor input_features is not supported"),
        (vec![values(4, 11), grid(&[1, 2, 2])], "pixel_values is F32 [4, 11]"),
        (vec![bytes, grid(&[1, 2, 2])], "pixel_values is U8 [4, 12]"),
        (vec![values(4, 12), grid(&[1, -2, 2])], "image_grid_thw is I64 [1, 3]"),
        (vec![values(4, 12), grid(&[1, 2, 3])], "counts 6 patches and pixel_values holds 4"),
        (vec![values(4, 12), grid(&[1, i64::MAX, 4])], "patches and pixel_values holds 4"),
        (vec![values(16, 12), grid(&[2, 4, 2])], "image 0 has 2 frames"),
        (vec![values(8, 12), grid(&[2, 4, 2])], "image_grid_thw counts 16 patches"),
        (vec![values(4, 12), grid(&[1, 1, 4])], "image 0: an image has 1 x 4 patches"),
        (vec![values(32, 12), grid(&[1, 8, 4])], "image 0: an image is 8 tokens"),
        (vec![video(4), grid(&[1, 2, 2])], "there is no tensor pixel_values;"),
        (vec![video(4)], "there is no tensor video_grid_thw"),
        (
            vec![video(4), video_grid(&[2, 2, 2])],
            "video_grid_thw counts 8 patches and pixel_values_videos holds 4",
        ),
        (vec![video(4), video_grid(&[4, 1, 1])], "video 0: an image has 1 x 1 patches"),
        (vec![video(0), video_grid(&[i64::MAX, 0, 2])], "video 0: an image has 0 x 2 patches"),
        (vec![video(0), video_grid(&[0, 2, 2])], "video 0 has no frames"),
        (vec![hole, grid(&[1, 2, 2])], "image 0: a number of an image's patches is not finite"),
    ];
    let mut wrong = Vec::new();
    for (tensors, expected) in cases {
        let tensors: Vec<_> = tensors
            .iter()
            .map(|(name, dtype, shape, data)| (*name, *dtype, &shape[..], data.clone()))
            .collect();
        match read(&file(&tensors), &vision()) {
            Err(error) if error.to_string().contains(expected) => {}
            other => wrong.push(format!("{expected}: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(matches!(read(b"nothing", &vision()), Err(InputsError::Format(_))));
}
