// tanh u. Up to kLimit it is u + u^3 P(u^2) with an interpolating polynomial P (relative error 7e-9
// for float, 1e-17 for double), which keeps the digits of small results; beyond,
// 1 - 2 / (1 + e^2u).
#pragma once

namespace sslkern::math {

template <class T>
struct Tanh;

template <>
struct Tanh<float> {
  static constexpr float kLimit = 0.63f;
  static constexpr int kDegree = 5;
  static constexpr float kCoefficient[kDegree + 1] = {
      -0.333333343f, 0.133332998f, -0.0539584607f, 0.0217625033f, -0.00832318701f, 0.0022695018f,
  };
};

template <>
struct Tanh<double> {
  static constexpr double kLimit = 0.63;
  static constexpr int kDegree = 13;
  static constexpr double kCoefficient[kDegree + 1] = {
      -0.33333333333333331483,    0.13333333333333333148,      -0.053968253968252812014,
      0.021869488536080745195,    -0.0088632355274013176205,   0.0035921279861448633317,
      -0.0014558337264772231237,  0.00059002154565090969042,   -0.00023909225607937785712,
      0.000096751752183264386848, -0.000038762027320133520393, 0.000014774632745515326853,
      -4.717518425508320953e-6,   8.9560645481586558771e-7,
  };
};

}  // namespace sslkern::math
