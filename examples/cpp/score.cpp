// Score images with an exported graph, in C++ alone: score MODEL.onnx IMAGE.ppm...
//
// The graph is that of mode=export format=onnx preprocess=true. The images are as the model sees
// them (resized, cropped, RGB, of the graph's size), here as binary PPM files, which need no
// decoder; a camera's buffer does as well.

#include <cstdint>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include <openvino/openvino.hpp>

// The pixels (h,w,3) of a PPM file of that size.
std::vector<std::uint8_t> read_ppm(const std::string& path, std::size_t h, std::size_t w) {
    std::ifstream file(path, std::ios::binary);
    std::string kind;
    std::size_t width = 0, height = 0, highest = 0;
    file >> kind >> width >> height >> highest;
    file.get();  // the one blank before the pixels
    if (!file || kind != "P6" || highest != 255 || width != w || height != h) {
        throw std::runtime_error(path + " is no 8-bit PPM of " + std::to_string(w) + "x" + std::to_string(h));
    }
    std::vector<std::uint8_t> pixels(3 * w * h);
    if (!file.read(reinterpret_cast<char*>(pixels.data()), pixels.size())) {
        throw std::runtime_error(path + " ends too early");
    }
    return pixels;
}

int main(int count, char** words) try {
    if (count < 3) {
        throw std::runtime_error("give MODEL.onnx IMAGE.ppm...");
    }
    ov::Core core;
    const auto model = core.read_model(words[1]);
    const auto shape = model->input().get_partial_shape();  // (B,h,w,3), B free
    if (model->input().get_element_type() != ov::element::u8) {
        throw std::runtime_error(std::string(words[1]) + " takes floats; export it with preprocess=true");
    }
    const std::size_t h = shape[1].get_length(), w = shape[2].get_length();
    // Some processors would compute in bfloat16, whose scores differ.
    auto request = core.compile_model(model, "CPU", ov::hint::inference_precision(ov::element::f32))
                       .create_infer_request();
    for (int i = 2; i < count; ++i) {
        auto pixels = read_ppm(words[i], h, w);
        request.set_input_tensor(ov::Tensor(ov::element::u8, {1, h, w, 3}, pixels.data()));
        request.infer();
        std::cout << words[i] << ' ' << request.get_tensor("score").data<float>()[0];
        if (model->outputs().size() > 2) {  // with a threshold
            std::cout << ' ' << (request.get_tensor("decision").data<bool>()[0] ? "defective" : "good");
        }
        std::cout << '\n';
    }
    return 0;
} catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 1;
}
