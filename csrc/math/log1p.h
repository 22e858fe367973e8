// log2(1 + e), e in [0, 1], as e P(e) with a minimax polynomial P (Remez; relative error 2e-8 for
// float, 3e-17 for double with the coefficients as they are rounded here, so rounding is what
// remains). The factor e keeps the digits of small results, which log2 of the sum 1 + e would lose.
#pragma once

namespace sslkern::math {

template <class T>
struct Log1p;

template <>
struct Log1p<float> {
  static constexpr int kDegree = 9;
  static constexpr float kCoefficient[kDegree + 1] = {
      1.44269502f,   -0.721344054f, 0.480793476f,   -0.359422147f, 0.280772328f,
      -0.211733475f, 0.137344837f,  -0.0665126443f, 0.0201895256f, -0.00278285984f,
  };
};

template <>
struct Log1p<double> {
  static constexpr int kDegree = 20;
  static constexpr double kCoefficient[kDegree + 1] = {
      1.4426950408889634,    -0.72134752044446793,    0.48089834696137623,
      -0.36067376014015007,  0.28853900575210351,     -0.24044912680150196,
      0.20609866999733692,   -0.18033091666587694,    0.16025692541616071,
      -0.14403850114579353,  0.13017876498225497,     -0.11697092860082421,
      0.10227983038440391,   -0.08418411827621336,    0.062521279598367965,
      -0.039980024818511671, 0.02094533399261251,     -0.0084974065082407766,
      0.0024773799536354432, -0.00045855581625219737, 4.0281290617108506e-05,
  };
};

}  // namespace sslkern::math
